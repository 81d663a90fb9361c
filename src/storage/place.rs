//! What `-r` names: a path, or the URL of a store.

use crate::fault::{Error, Result};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest URL in bytes that is taken for one.
const URL_MAX: usize = 2048;
/// The schemes that there are.
const SCHEMES: &str = "s3://, webdav://, webdavs:// and sftp://";
/// What people call secrets, as names of parameters; none of them belongs into a URL, which everybody sees in `ps`
/// and in logs.
const SECRETS: [&str; 10] = [
    "access-key",
    "access-key-id",
    "aws-access-key-id",
    "secret",
    "secret-key",
    "secret-access-key",
    "aws-secret-access-key",
    "password",
    "token",
    "session-token",
];

/// Where a repository lies, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine.
    Local(PathBuf),
    /// A prefix of a bucket of an S3 store.
    S3(S3Place),
    /// A folder of a WebDAV server.
    WebDav(WebDavPlace),
    /// A folder of a machine that ssh reaches.
    Sftp(SftpPlace),
}

/// `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&path-style=true&profile=NAME&storage-class=NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Place {
    /// The bucket.
    pub bucket: String,
    /// Segments joined by `/`, or nothing; no slash at the ends.
    pub prefix: String,
    /// URL of the server; that of AWS if none is named here or in the environment.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: Option<String>,
    /// Whether the bucket is a part of the path rather than of the host name.
    pub path_style: Option<bool>,
    /// Section of the files in `~/.aws`.
    pub profile: Option<String>,
    /// What new objects are stored as, such as `STANDARD_IA`.
    pub storage_class: Option<String>,
}

/// `webdav://USER@HOST:PORT/PATH`; webdavs over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebDavPlace {
    /// Whether it is spoken over TLS.
    pub tls: bool,
    /// Who logs in, if the URL says so.
    pub user: Option<String>,
    /// `host` or `host:port`.
    pub host: String,
    /// Segments joined by `/`, or nothing; no slash at the ends.
    pub path: String,
}

/// `sftp://USER@HOST:PORT/PATH`; `/~/PATH` is below the home folder there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpPlace {
    /// Who logs in, if the URL says so; else ssh decides.
    pub user: Option<String>,
    /// A name or address, or a `Host` of ssh_config(5).
    pub host: String,
    /// Port, if the URL says so; else ssh decides.
    pub port: Option<u16>,
    /// As the server takes it: absolute, or relative to the home folder.
    pub path: String,
}

impl Place {
    /// Reads what `-r` was given. Whatever has no `://` in it is a path.
    ///
    /// # Errors
    /// `Misuse` for a URL that is none of ours, or holds a secret.
    pub fn parse(text: &OsStr) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::misuse("the place of a repository is empty"));
        }
        let Some((scheme, rest)) = text.to_str().and_then(|t| t.split_once("://")) else {
            return Ok(Self::Local(text.into()));
        };
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return Ok(Self::Local(text.into()));
        }
        let wrong = |why: &str| Error::misuse(format!("{} is no repository: {why}", text.display()));
        if text.len() > URL_MAX {
            return Err(Error::misuse(format!("the URL of a repository is longer than {URL_MAX} bytes")));
        }
        if rest.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#') {
            return Err(wrong("a URL holds no spaces, control characters and #"));
        }
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = address.split_once('/').unwrap_or((address, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some_and(|u| u.contains(':')) {
            // The text itself is not repeated: it holds the secret.
            return Err(Error::misuse(
                "a URL with a password in it is not taken: others see it in the list of processes",
            )
            .hint(HOW_TO_LOG_IN));
        }
        if !["s3", "webdav", "webdavs", "sftp"].contains(&scheme) {
            return Err(wrong(&format!("there are {SCHEMES}, and folders, which are written as they are"))
                .hint(format!("a folder of that very name is ./{}", text.display())));
        }
        if host.is_empty() {
            return Err(wrong("it names no host or bucket"));
        }
        match scheme {
            "s3" if user.is_some() => Err(Error::misuse(
                "a URL with a key in it is not taken: others see it in the list of processes",
            )
            .hint(HOW_TO_LOG_IN)),
            "s3" => Ok(Self::S3(S3Place::parse(host, &decode(path), query, &wrong)?)),
            _ if !query.is_empty() => Err(wrong("only s3:// takes parameters")),
            "webdav" | "webdavs" => {
                let tls = scheme == "webdavs";
                let path = segments(&decode(path)).ok_or_else(|| wrong(BAD_PATH))?;
                Ok(Self::WebDav(WebDavPlace { tls, user: user.map(decode), host: host.into(), path }))
            }
            _ => Ok(Self::Sftp(SftpPlace::parse(user, host, &decode(path), &wrong)?)),
        }
    }

    /// The folder, where it is one of this machine.
    pub fn local(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            _ => None,
        }
    }
}

const HOW_TO_LOG_IN: &str = "S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile in ~/.aws; WebDAV: \
                             PASTFS_WEBDAV_PASSWORD or PASTFS_WEBDAV_PASSWORD_FILE; SFTP: an ssh key";
const BAD_PATH: &str = "its path has empty segments, . or ..";

impl S3Place {
    fn parse(bucket: &str, path: &str, query: &str, wrong: &dyn Fn(&str) -> Error) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !bucket.bytes().all(plain) {
            return Err(wrong("the name of a bucket holds letters, digits, dots and hyphens")
                .hint("the server is named by ?endpoint=https://HOST:PORT or by AWS_ENDPOINT_URL"));
        }
        let prefix = segments(path).ok_or_else(|| wrong(BAD_PATH))?;
        let mut place = Self { bucket: bucket.into(), prefix, ..Self::default() };
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (name.to_ascii_lowercase().replace('_', "-"), decode(value));
            if SECRETS.contains(&name.as_str()) {
                return Err(Error::misuse(format!(
                    "{name} in a URL is not taken: others see it in the list of processes"
                ))
                .hint(HOW_TO_LOG_IN));
            }
            match (name.as_str(), value.as_str()) {
                (_, "") => return Err(wrong(&format!("{name} has no value"))),
                ("endpoint", _) => place.endpoint = Some(value.trim_end_matches('/').into()),
                ("region", _) => place.region = Some(value),
                ("path-style", "true" | "1") => place.path_style = Some(true),
                ("path-style", "false" | "0") => place.path_style = Some(false),
                ("path-style", _) => return Err(wrong("path-style is true or false")),
                ("profile", _) => place.profile = Some(value),
                ("storage-class", _) => place.storage_class = Some(value),
                _ => {
                    return Err(wrong(&format!(
                        "s3:// has the parameters endpoint, region, path-style, profile and storage-class, not {name}"
                    )));
                }
            }
        }
        Ok(place)
    }
}

impl SftpPlace {
    fn parse(user: Option<&str>, host: &str, path: &str, wrong: &dyn Fn(&str) -> Error) -> Result<Self> {
        // An IPv6 address stands in brackets.
        let (host, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => {
                let port = port.parse().ok().filter(|p| *p > 0);
                (name, Some(port.ok_or_else(|| wrong("its port is no number from 1 to 65535"))?))
            }
            _ => (host, None),
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        // ssh would take it for an option.
        let is_option = |t: &str| t.is_empty() || t.starts_with('-');
        let user = user.map(decode);
        if is_option(host) || user.as_deref().is_some_and(is_option) {
            return Err(wrong("its host and user must not be empty or begin with -"));
        }
        let inner = path.trim_end_matches('/');
        let path = match inner.strip_prefix('~').map(|home| home.strip_prefix('/').unwrap_or(home)) {
            Some("") => ".".into(),
            Some(home) if inner.starts_with("~/") => home.into(),
            _ if inner.is_empty() => {
                return Err(wrong("it names no folder").hint("sftp://HOST/srv/backup, or /~/backup"));
            }
            _ => format!("/{inner}"),
        };
        if path.split('/').any(|s| s == "..") {
            return Err(wrong(BAD_PATH));
        }
        Ok(Self { user, host: host.into(), port, path })
    }
}

/// For messages, without secrets; what is written here names the place again.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::S3(place) => {
                write!(f, "s3://{}", place.bucket)?;
                if !place.prefix.is_empty() {
                    write!(f, "/{}", place.prefix)?;
                }
                place.endpoint.as_ref().map_or(Ok(()), |e| write!(f, "?endpoint={e}"))
            }
            Self::WebDav(place) => {
                let scheme = if place.tls { "webdavs" } else { "webdav" };
                write!(f, "{scheme}://{}/{}", place.host, place.path)
            }
            Self::Sftp(place) => {
                f.write_str("sftp://")?;
                place.user.as_ref().map_or(Ok(()), |u| write!(f, "{u}@"))?;
                match place.host.contains(':') {
                    true => write!(f, "[{}]", place.host)?,
                    false => f.write_str(&place.host)?,
                }
                place.port.map_or(Ok(()), |p| write!(f, ":{p}"))?;
                match place.path.starts_with('/') {
                    true => f.write_str(&place.path),
                    false => write!(f, "/~/{}", place.path),
                }
            }
        }
    }
}

/// A path without slashes at its ends; `None` where a segment is empty, `.` or `..`.
fn segments(path: &str) -> Option<String> {
    let path = path.trim_matches('/');
    let fine = path.is_empty() || path.split('/').all(|s| !s.is_empty() && s != "." && s != "..");
    fine.then(|| path.to_owned())
}

/// Undoes `%20` and the like (RFC 3986, 2.1); what is no such code stays.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes what cannot stand in the path of a URL; slashes stay.
pub(super) fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Whether a host (with or without a port) is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The folder of this machine that a store's location names, if it is one.
pub fn folder_of(location: &str) -> Option<PathBuf> {
    location.starts_with('/').then(|| location.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    fn parse(text: &str) -> Result<Place> {
        Place::parse(OsStr::new(text))
    }

    #[test]
    fn what_has_no_scheme_is_a_path() {
        for text in ["/backup", "backup", "a:b", "host:/x", "./s3://x", "://", "a b://c"] {
            assert_eq!(parse(text).unwrap(), Place::Local(text.into()), "{text}");
        }
    }

    #[test]
    fn urls_are_read_and_written_alike() {
        for text in [
            "s3://bucket",
            "s3://bucket/a/b",
            "s3://bucket/a?endpoint=http://127.0.0.1:7480",
            "webdav://localhost:8080/dav/x",
            "webdavs://host/",
            "sftp://host/srv/backup",
            "sftp://ana@host:2222/srv",
            "sftp://[::1]:22/srv",
            "sftp://host/~/backup",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
            assert_eq!(folder_of(text), None);
        }
        let Place::S3(s3) =
            parse("s3://b/p%20q/?region=eu-1&path_style=false&profile=x&storage-class=GLACIER_IR").unwrap()
        else {
            panic!("not S3")
        };
        assert_eq!((s3.prefix.as_str(), s3.region.as_deref()), ("p q", Some("eu-1")));
        assert_eq!((s3.path_style, s3.storage_class.as_deref()), (Some(false), Some("GLACIER_IR")));
        let Place::Sftp(home) = parse("sftp://h/~").unwrap() else { panic!("not SFTP") };
        assert_eq!(home.path, ".");
        let Place::WebDav(dav) = parse("webdavs://ana@h:1/x%2fy").unwrap() else { panic!("not WebDAV") };
        assert_eq!((dav.user.as_deref(), dav.path.as_str(), dav.tls), (Some("ana"), "x/y", true));
    }

    #[test]
    fn what_makes_no_sense_or_tells_a_secret_is_refused() {
        for text in [
            "http://host/x",
            "s3://",
            "s3:///x",
            "s3://a b",
            "s3://b/../c",
            "s3://b/a//c",
            "s3://b?regoin=x",
            "s3://b?region=",
            "s3://b?path-style=maybe",
            "s3://host:9000/b",
            "webdav://",
            "webdavs://h/x?y=z",
            "sftp://h",
            "sftp://h:0/x",
            "sftp://h:x/x",
            "sftp://-oProxyCommand=x/y",
            "sftp://-l@h/x",
            "sftp://h/../x",
            "s3://b/x#y",
        ] {
            assert_eq!(parse(text).unwrap_err().fault(), Fault::Misuse, "{text}");
        }
        for text in [
            "s3://AK:S3CRET@b/x",
            "s3://S3CRET@b/x",
            "s3://b?secret_access_key=S3CRET",
            "s3://b?token=S3CRET",
            "webdavs://ana:S3CRET@h/x",
            "sftp://ana:S3CRET@h/x",
        ] {
            let e = parse(text).unwrap_err();
            assert!(!e.chain().contains("S3CRET") && e.advice().is_some(), "{e:?}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3:8080", "[::1]:80", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "128.0.0.1:80", "[::2]:80", "127.0.0.1.example:80"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn paths_are_encoded_and_decoded() {
        assert_eq!(encode("a b/ü~"), "a%20b/%C3%BC~");
        assert_eq!(decode("a%20b/%C3%BC~%zz%2"), "a b/ü~%zz%2");
    }
}
