//! What a refusal means: from the words of servers to what people can do about it.

use crate::fault::{Error, Fault};
use crate::storage::retry::Inner;
use http::StatusCode;
use std::error::Error as StdError;
use std::fmt;

const KEYS: &str = "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or at the profile in ~/.aws";
const CERTIFICATE: &str = "name the certificate of whoever signed the server's by --cacert FILE";
const FULL: &str = "the store is full, or its quota is used up: make room there, or here by `pastfs forget` and `pastfs \
                    prune`. What was stored is kept, and the next run goes on from there";
const TOO_LARGE: &str = "the server takes no objects of this size: packs have 32 MiB, so raise its limit (nginx: \
                         client_max_body_size; Apache: LimitRequestBody)";
/// How much of a server's answer a message can bear, in characters.
const EXCERPT: usize = 200;

/// What a server said to one request.
pub(super) type Answered<T> = std::result::Result<T, Trouble>;

/// A failure with its meaning, on its way through a library that knows nothing of it.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) fault: Fault,
    pub(super) text: String,
    pub(super) hint: Option<&'static str>,
    /// The server says that it failed, and not that it cannot now: see [`Inner`].
    pub(super) is_inner: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Trouble {}

impl Trouble {
    pub(super) fn new(fault: Fault, text: impl Into<String>) -> Self {
        Self { fault, text: text.into(), hint: None, is_inner: false }
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// A failure before there was any answer.
    pub(super) fn of_http(e: &reqwest::Error) -> Self {
        let text = innermost(e);
        if text.contains("invalid peer certificate") || text.contains("certificate") && e.is_connect() {
            return Self::new(Fault::Denied, format!("the server's certificate is not trusted: {text}"))
                .hint(CERTIFICATE);
        }
        if text.contains("dns error") || text.contains("failed to lookup address") {
            return Self::new(Fault::Busy, text).hint("look at the name of the host, and at the network");
        }
        if text.contains("corrupt message") || text.contains("InvalidContentType") {
            return Self::new(Fault::Io, format!("the server does not speak TLS there: {text}"))
                .hint("look at the port, and at http:// or https://");
        }
        if e.is_connect() {
            return Self::new(Fault::Busy, text)
                .hint("look at the host and port, and whether the server runs");
        }
        match e.is_builder() {
            true => Self::new(Fault::Misuse, text),
            false => Self::new(Fault::Busy, text),
        }
    }

    /// An answer that refuses, of a server that says no more than its status.
    pub(super) fn of_status(status: StatusCode, body: &str) -> Self {
        // Pages for browsers repeat the status in many words.
        let is_page =
            body.trim_start().get(..5).is_some_and(|b| matches!(&*b.to_ascii_lowercase(), "<html" | "<!doc"));
        let words = if is_page { String::new() } else { excerpt(body) };
        let text = match words.is_empty() {
            true => format!("the server answers {status}"),
            false => format!("the server answers {status}: {words}"),
        };
        let fault = match status.as_u16() {
            404 | 410 => Fault::Missing,
            401 | 403 => Fault::Denied,
            408 | 423 | 425 | 429 | 499 | 500 | 502 | 503 | 504 => Fault::Busy,
            413 | 507 => Fault::Full,
            _ => Fault::Io,
        };
        let trouble =
            Self { is_inner: status == StatusCode::INTERNAL_SERVER_ERROR, ..Self::new(fault, text) };
        match status.as_u16() {
            413 => trouble.hint(TOO_LARGE),
            507 => trouble.hint(FULL),
            _ => trouble,
        }
    }

    /// An answer of an S3 server: its code says more than the status.
    pub(super) fn of_s3(code: &str, message: &str, status: Option<StatusCode>) -> Self {
        let words = excerpt(message);
        let text = match (code, words.is_empty()) {
            ("", _) => return Self::of_status(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message),
            (_, true) => format!("the store answers {code}"),
            _ => format!("the store answers {code}: {words}"),
        };
        let (fault, hint) = match code {
            "NoSuchKey" => (Fault::Missing, None),
            "NoSuchBucket" => {
                (Fault::NoRepository, Some("make the bucket first, or look at its name and at the endpoint"))
            }
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => (
                Fault::Denied,
                Some(
                    "the key is known, and may not do that: look at the bucket's policy and the key's rights",
                ),
            ),
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity" | "MissingSecurityHeader" => {
                (Fault::Denied, Some(KEYS))
            }
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
                (Fault::Denied, Some("the session token is over: get a new one, or unset AWS_SESSION_TOKEN"))
            }
            "RequestTimeTooSkewed" | "RequestExpired" => (
                Fault::Denied,
                Some(
                    "the clocks of this machine and of the store are more than 15 minutes apart: set this one's",
                ),
            ),
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException" => {
                (Fault::Misuse, Some("the bucket is in another region: name it by ?region= or AWS_REGION"))
            }
            "InvalidBucketName" => (Fault::Misuse, None),
            "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" => (Fault::Full, Some(FULL)),
            "EntityTooLarge" => (Fault::Full, Some(TOO_LARGE)),
            "InvalidObjectState" => {
                (Fault::Denied, Some("the object lies in an archive: restore it there first"))
            }
            "SlowDown"
            | "ServiceUnavailable"
            | "InternalError"
            | "RequestTimeout"
            | "OperationAborted"
            | "BadDigest"
            | "ConditionalRequestConflict"
            | "IncompleteBody"
            | "TooManyRequests" => (Fault::Busy, None),
            _ => (Self::of_status(status.unwrap_or(StatusCode::BAD_REQUEST), "").fault, None),
        };
        Self { fault, text, hint, is_inner: code == "InternalError" }
    }

    /// As our own error.
    pub(super) fn while_(self, doing: impl Into<String>) -> Error {
        let hint = self.hint;
        let e = match self.is_inner {
            true => Error::with_source(self.fault, doing, Inner(self.text)),
            false => Error::with_source(self.fault, doing, self.text),
        };
        match hint {
            Some(hint) => e.hint(hint),
            None => e,
        }
    }
}

/// The texts of an error's causes, from the second on: the first says only that a request was sent, and each may repeat
/// the next.
pub(super) fn innermost(e: &dyn StdError) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut at = e.source();
    while let Some(cause) = at {
        let text = cause.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        at = cause.source();
    }
    match texts.is_empty() {
        true => e.to_string(),
        false => texts.join(": "),
    }
}

/// One line of a server's answer, without the tags of XML and HTML.
fn excerpt(body: &str) -> String {
    let (mut text, mut in_tag) = (String::new(), false);
    for c in body.chars() {
        match c {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                text.push(' ');
            }
            _ if in_tag => {}
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_busy_and_what_may_not_is_not() {
        for code in ["SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"] {
            assert_eq!(Trouble::of_s3(code, "", None).fault, Fault::Busy, "{code}");
        }
        for code in ["AccessDenied", "SignatureDoesNotMatch", "ExpiredToken", "RequestTimeTooSkewed"] {
            let trouble = Trouble::of_s3(code, "words", Some(StatusCode::FORBIDDEN));
            assert!(trouble.fault == Fault::Denied && trouble.hint.is_some(), "{code}");
            assert!(trouble.text.contains(code) && trouble.text.contains("words"), "{}", trouble.text);
        }
        assert_eq!(Trouble::of_s3("NoSuchBucket", "", None).fault, Fault::NoRepository);
        assert_eq!(Trouble::of_s3("Unknown", "", Some(StatusCode::SERVICE_UNAVAILABLE)).fault, Fault::Busy);
        assert_eq!(
            Trouble::of_s3("", "<html>gone</html>", Some(StatusCode::NOT_FOUND)).fault,
            Fault::Missing
        );
        for (status, fault) in [
            (401, Fault::Denied),
            (403, Fault::Denied),
            (404, Fault::Missing),
            (405, Fault::Io),
            (423, Fault::Busy),
            (429, Fault::Busy),
            (501, Fault::Io),
            (503, Fault::Busy),
            (507, Fault::Full),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Trouble::of_status(status, "").fault, fault, "{status}");
        }
    }

    #[test]
    fn pages_for_browsers_become_one_line() {
        assert_eq!(excerpt("<h1>Not\n Found</h1>\n<p>gone</p>"), "Not Found gone");
        assert_eq!(excerpt(&"x".repeat(1000)).len(), EXCERPT);
    }
}
