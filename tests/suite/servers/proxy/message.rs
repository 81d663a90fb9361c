//! Messages of HTTP/1.1 (RFC 9112), as far as a proxy that changes nothing must understand them.

use std::io::{self, BufRead, Read, Write};

/// Longest head of a request or an answer.
const HEAD_LIMIT: u64 = 256 << 10;
/// Bytes that are passed on at once.
pub const PIECE: usize = 64 << 10;

/// The head of a message: its first line, all of it, and how its body ends.
pub struct Head {
    pub first: String,
    pub bytes: Vec<u8>,
    pub body: Body,
    pub expects_continue: bool,
    pub closes: bool,
}

#[derive(Clone, Copy)]
pub enum Body {
    Length(u64),
    Chunked,
    UntilEnd,
}

/// Reads one; `None` at the end of the connection.
pub fn read_head(from: &mut impl BufRead, is_answer: bool) -> io::Result<Option<Head>> {
    let (mut bytes, mut first) = (Vec::new(), String::new());
    let mut body = if is_answer { Body::UntilEnd } else { Body::Length(0) };
    let (mut expects_continue, mut closes) = (false, false);
    loop {
        let mut line = Vec::new();
        from.by_ref().take(HEAD_LIMIT).read_until(b'\n', &mut line)?;
        if line.is_empty() && bytes.is_empty() {
            return Ok(None);
        }
        if !line.ends_with(b"\n") || bytes.len() as u64 > HEAD_LIMIT {
            return Err(io::Error::other("a head that does not end"));
        }
        bytes.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            return Ok(Some(Head { first, bytes, body, expects_continue, closes }));
        }
        if first.is_empty() {
            first = text;
            continue;
        }
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                body = Body::Length(value.parse().map_err(|_| io::Error::other("no length"))?);
            }
            "transfer-encoding" if value.contains("chunked") => body = Body::Chunked,
            "expect" => expects_continue = value.contains("100-continue"),
            "connection" => closes = value.contains("close"),
            _ => {}
        }
    }
}

/// Passes a body on, as it is framed. `hears` gets each piece, and says whether to go on.
pub fn copy_body(
    from: &mut impl BufRead,
    to: &mut impl Write,
    body: Body,
    hears: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut copy = |from: &mut dyn BufRead, to: &mut dyn Write, len: Option<u64>| -> io::Result<()> {
        let mut left = len.unwrap_or(u64::MAX);
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let n = from.read(&mut piece[..most])?;
            if n == 0 {
                return if len.is_none() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            hears(&piece[..n])?;
            to.write_all(&piece[..n])?;
            left -= n as u64;
        }
        Ok(())
    };
    match body {
        Body::Length(len) => copy(from, to, Some(len)),
        Body::UntilEnd => copy(from, to, None),
        Body::Chunked => loop {
            let mut line = Vec::new();
            from.by_ref().take(HEAD_LIMIT).read_until(b'\n', &mut line)?;
            to.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            let digits = text.split(';').next().unwrap_or_default().trim();
            let len =
                u64::from_str_radix(digits, 16).map_err(|_| io::Error::other("no length of a chunk"))?;
            copy(from, to, Some(len))?;
            // The end of the line behind it; behind the last there may be more lines, which nobody here sends.
            let mut end = [0; 2];
            from.read_exact(&mut end)?;
            to.write_all(&end)?;
            if len == 0 {
                return Ok(());
            }
        },
    }
}

/// Whether a request lists a bucket of S3: its path holds no more than the bucket, and its query does not ask for one of
/// the bucket's properties.
pub fn is_list(method: &str, target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_bucket = path.trim_matches('/').split('/').count() == 1 && path.len() > 1;
    method == "GET" && is_bucket && (query.contains("list-type=") || query.contains("prefix="))
}

/// What S3 and others say when they will not.
pub fn refusal(status: u16, method: &str) -> Vec<u8> {
    let (reason, code) = match status {
        403 => ("Forbidden", "AccessDenied"),
        429 => ("Too Many Requests", "TooManyRequests"),
        501 => ("Not Implemented", "NotImplemented"),
        503 => ("Service Unavailable", "SlowDown"),
        507 => ("Insufficient Storage", "QuotaExceeded"),
        _ => ("Internal Server Error", "InternalError"),
    };
    let body = match method {
        "HEAD" => String::new(),
        _ => format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
        ),
    };
    let len = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}
