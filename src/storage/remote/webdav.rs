//! WebDAV (RFC 4918), by the few requests that a store needs.
//!
//! A put is a PUT below `tmp/` and a MOVE that overwrites nothing: servers differ in whether a PUT that was cut off
//! leaves a part behind, and in whether they know conditions. Folders are made when a MOVE misses them. Sizes and dates
//! are asked for by PROPFIND, which no cache on the way answers (RFC 4918, 9.1), and lists folder by folder: many
//! servers refuse `Depth: infinity`, and some silently answer less.

use super::answer::{Answered, Trouble};
use super::multistatus::{self, Member};
use super::wire::{Wire, check_plain};
use super::{AT_A_TIME, Limits, again, block_on, list_below};
use crate::clock::{self, Time};
use crate::fault::{Error, Fault, Result};
use crate::id::hex;
use crate::storage::place::{Place, WebDavPlace, encode};
use crate::storage::{Listed, Nature, Options, Store, TEMPORARY, check_name, check_prefix};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Method, Request, StatusCode, header};
use opendal::Buffer;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is asked about things: the least that a list needs.
const QUESTION: &str = r#"<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/><D:getlastmodified/></D:prop></D:propfind>"#;
/// Longest answer about one folder: some 300 bytes for each of its objects, of which a folder of ours has thousands.
const ANSWER_MAX: usize = 256 << 20;
/// Room that is made for a part of an object before it comes.
const BELIEVED: usize = 16 << 20;
/// Longest text of a refusal that is read.
const REFUSAL_MAX: usize = 64 << 10;
/// How old a temporary file must be before it counts as left by a dead writer: longer than any put takes.
const ABANDONED_SECONDS: i64 = 24 * 60 * 60;

/// A folder of a WebDAV server. See the module's text.
pub(super) struct WebDav {
    wire: Wire,
    /// URL of the server, without a slash at its end.
    server: String,
    /// Path of the folder, decoded: `/dav/backup`, or nothing.
    path: String,
    login: Option<HeaderValue>,
    location: String,
    has_swept: AtomicBool,
}

impl WebDav {
    /// Asks nothing of the server yet.
    pub(super) fn open(place: &WebDavPlace, options: &Options) -> Result<Self> {
        check_plain(place.tls, &place.host, options.insecure_http)?;
        let user = place.user.clone().or_else(|| options.webdav_user.clone());
        let login = match (user, &options.webdav_password) {
            (Some(user), password) => Some(basic(&user, password.as_deref().map_or(&[][..], |p| p))?),
            (None, Some(_)) => {
                return Err(Error::misuse("there is a password for WebDAV and no user")
                    .hint("set PASTFS_WEBDAV_USER, or write webdavs://USER@HOST/PATH"));
            }
            (None, None) => None,
        };
        let scheme = if place.tls { "https" } else { "http" };
        let path = if place.path.is_empty() { String::new() } else { format!("/{}", place.path) };
        Ok(Self {
            wire: Wire::new(Limits::new(options), options.cacert.as_deref())?,
            server: format!("{scheme}://{}", place.host),
            path,
            login,
            location: Place::WebDav(place.clone()).to_string(),
            has_swept: AtomicBool::new(false),
        })
    }

    /// The URL of an object or folder.
    fn url(&self, name: &str) -> String {
        format!("{}{}/{}", self.server, encode(&self.path), encode(name))
    }

    /// A request about an object or folder.
    fn request(&self, method: &str, name: &str) -> http::request::Builder {
        // All methods of ours are well-formed.
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(self.url(name));
        if let Some(login) = &self.login {
            request = request.header(header::AUTHORIZATION, login);
        }
        request
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Answered<reqwest::Response> {
        let request = request.body(Buffer::from(body)).map_err(|e| {
            Trouble::new(Fault::Misuse, format!("{} is no place for requests: {e}", self.location))
        })?;
        self.wire.send(request).await
    }

    /// Sends a request that has no answer but its status. Those of `fine` are returned, all others are failures.
    async fn tell(&self, request: http::request::Builder, body: Bytes, fine: &[u16]) -> Answered<u16> {
        let answer = self.send(request, body).await?;
        let status = answer.status().as_u16();
        if answer.status().is_success() || fine.contains(&status) {
            // Read to its end: the connection is used again.
            let mut rest = self.wire.incoming(answer);
            while let Some(piece) = rest.next().await {
                piece?;
            }
            return Ok(status);
        }
        Err(self.refused(answer).await)
    }

    async fn refused(&self, answer: reqwest::Response) -> Trouble {
        let (status, moved) = (answer.status(), answer.headers().get(header::LOCATION).cloned());
        let text = self.whole(answer, REFUSAL_MAX).await.unwrap_or_default();
        let trouble = Trouble::of_status(status, &String::from_utf8_lossy(&text));
        match status.as_u16() {
            301 | 302 | 307 | 308 => {
                let to = moved.as_ref().and_then(|m| m.to_str().ok()).unwrap_or("another place");
                Trouble::new(Fault::Misuse, format!("the server answers {status}: it is at {to}"))
                    .hint("name that place; webdavs:// is the one over https")
            }
            401 => trouble.hint("look at PASTFS_WEBDAV_USER and PASTFS_WEBDAV_PASSWORD"),
            403 => trouble.hint("the server knows the user, and does not let them do that"),
            405 | 501 => trouble.hint("is this path one for WebDAV, and may it be written to?"),
            _ => trouble,
        }
    }

    /// The whole body of an answer, or `Full` where it is longer than `limit`.
    async fn whole(&self, answer: reqwest::Response, limit: usize) -> Answered<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut pieces = self.wire.incoming(answer);
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if bytes.len() + piece.len() > limit {
                return Err(Trouble::new(Fault::Full, format!("the answer is longer than {limit} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// What a folder holds, itself first (`depth` 1), or what one thing is (0). `None` if it is not there.
    async fn find(&self, name: &str, depth: u8) -> Answered<Option<Vec<Member>>> {
        let request = self
            .request("PROPFIND", name)
            .header("Depth", depth.to_string())
            .header(header::CONTENT_TYPE, "application/xml");
        let answer = self.send(request, Bytes::from_static(QUESTION.as_bytes())).await?;
        match answer.status() {
            StatusCode::MULTI_STATUS => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            _ => return Err(self.refused(answer).await),
        }
        let xml = self.whole(answer, ANSWER_MAX).await?;
        let strange = |e| Trouble::new(Fault::Io, format!("the server's answer makes no sense: {e}"));
        multistatus::parse(&xml).map(Some).map_err(strange)
    }

    /// An object, or `None`; a folder is none.
    async fn look(&self, name: &str) -> Answered<Option<Member>> {
        let found = self.find(name, 0).await?.and_then(|members| members.into_iter().next());
        match found {
            Some(member) if member.is_folder => {
                Err(Trouble::new(Fault::Damaged, format!("{name} is a folder, where an object must be")))
            }
            found => Ok(found),
        }
    }

    async fn must_see(&self, name: &str) -> Answered<Member> {
        self.look(name).await?.ok_or_else(|| Trouble::new(Fault::Missing, "it is not there"))
    }

    /// Makes a folder, and those above it. Who finds one there has what they want.
    async fn make_folder(&self, folder: &str) -> Answered<()> {
        if self.make_one(folder).await? {
            return Ok(());
        }
        match folder.rsplit_once('/') {
            Some((above, _)) => Box::pin(self.make_folder(above)).await?,
            None if !folder.is_empty() => Box::pin(self.make_folder("")).await?,
            None => {}
        }
        match self.make_one(folder).await? {
            true => Ok(()),
            false => Err(Trouble::new(Fault::Missing, "the folder above it is not there")
                .hint("make it first: only the last folder of the URL is made here")),
        }
    }

    /// Makes one folder; `false` if the one above it is not there.
    async fn make_one(&self, folder: &str) -> Answered<bool> {
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        // 405: it is there. 409: the one above it is not.
        match self.tell(self.request("MKCOL", &folder), Bytes::new(), &[405, 409]).await {
            // Apache's words for one that somebody else made in the same moment.
            Err(refused) if refused.fault == Fault::Denied => {
                let found = self.find(&folder, 0).await?.unwrap_or_default();
                if found.first().is_some_and(|m| m.is_folder) { Ok(true) } else { Err(refused) }
            }
            status => Ok(status? != StatusCode::CONFLICT),
        }
    }

    async fn write(&self, name: &str, bytes: &[u8]) -> Answered<bool> {
        if !self.has_swept.swap(true, Ordering::Relaxed) {
            self.sweep().await;
        }
        let temporary = format!("{TEMPORARY}/{}", hex(&clock::random_array::<16>()));
        let body = Bytes::copy_from_slice(bytes);
        let put = || self.request("PUT", &temporary).header(header::CONTENT_TYPE, "application/octet-stream");
        // Where the folder is not there Apache says 409, and nginx 500.
        if matches!(self.tell(put(), body.clone(), &[404, 409, 500]).await?, 404 | 409 | 500) {
            self.make_folder(TEMPORARY).await?;
            self.tell(put(), body, &[]).await?;
        }
        let moved = self.place(&temporary, name).await;
        if !matches!(moved, Ok(true)) {
            // If this fails too, a later sweep gets it.
            let _ = self.tell(self.request("DELETE", &temporary), Bytes::new(), &[404]).await;
        }
        moved
    }

    /// Moves a temporary file into place; `false` if something is there.
    async fn place(&self, temporary: &str, name: &str) -> Answered<bool> {
        let to = self.url(name);
        let request = || self.request("MOVE", temporary).header("Destination", &to).header("Overwrite", "F");
        // 500 is what Apache says where the folder is not there.
        let mut status = self.tell(request(), Bytes::new(), &[404, 409, 412, 500]).await?;
        if matches!(status, 404 | 409 | 500) {
            self.make_folder(name.rsplit_once('/').map_or("", |(folder, _)| folder)).await?;
            status = self.tell(request(), Bytes::new(), &[412]).await?;
        }
        Ok(status != StatusCode::PRECONDITION_FAILED)
    }

    /// Whether the object that is there has these bytes.
    async fn is_same(&self, name: &str, bytes: &[u8]) -> Answered<bool> {
        let mut rest = bytes;
        let mut pieces = self.read(name, None).await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if rest.get(..piece.len()) != Some(&piece[..]) {
                return Ok(false);
            }
            rest = &rest[piece.len()..];
        }
        Ok(rest.is_empty())
    }

    /// Begins to read an object, or the bytes of it from `range.0` up to `range.1`.
    async fn read(&self, name: &str, range: Option<(u64, u64)>) -> Answered<super::wire::Incoming> {
        // No cache on the way may show what was deleted since.
        let mut request = self.request("GET", name).header(header::CACHE_CONTROL, "no-cache");
        if let Some((from, to)) = range {
            request = request.header(header::RANGE, format!("bytes={from}-{}", to - 1));
        }
        let answer = self.send(request, Bytes::new()).await?;
        match (answer.status(), range) {
            (StatusCode::OK, None) | (StatusCode::PARTIAL_CONTENT, Some(_)) => Ok(self.wire.incoming(answer)),
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                Err(Trouble::new(Fault::Damaged, "it is truncated: it ends before"))
            }
            // A whole answer to a question for a part: of an empty object, or of a server that knows no parts.
            (StatusCode::OK, Some(_)) if answer.content_length() == Some(0) => {
                Err(Trouble::new(Fault::Damaged, "it is truncated: it is empty"))
            }
            (StatusCode::OK, Some(_)) => Err(Trouble::new(Fault::Io, "the server sends no parts of files")),
            _ => Err(self.refused(answer).await),
        }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let done = self.tell(self.request("DELETE", name), Bytes::new(), &[404, 410]).await;
        done.map(drop).map_err(|t| t.while_(format!("deleting {name} from {}", self.location)))
    }

    /// Removes what dead writers left below `tmp/`. It is a courtesy.
    async fn sweep(&self) {
        let found = self.find(&format!("{TEMPORARY}/"), 1).await;
        let now = clock::now().seconds;
        for member in found.ok().flatten().unwrap_or_default() {
            let is_old = member.modified.is_some_and(|m| now - m.seconds > ABANDONED_SECONDS);
            if let (true, false, Some(name)) = (is_old, member.is_folder, member.path.rsplit('/').next()) {
                let name = format!("{TEMPORARY}/{name}");
                let _ = self.tell(self.request("DELETE", &name), Bytes::new(), &[404]).await;
            }
        }
    }

    /// Lists one folder: what is in it, and the folders that are.
    async fn list_folder(&self, folder: &str) -> Answered<(Vec<Listed>, Vec<String>)> {
        let (mut found, mut inner) = (Vec::new(), Vec::new());
        let own = format!("{}/{folder}", self.path);
        let own = own.trim_end_matches('/');
        for member in self.find(folder, 1).await?.unwrap_or_default() {
            if member.path == own {
                continue;
            }
            let base = member.path.strip_prefix(own).and_then(|rest| rest.strip_prefix('/'));
            let Some(base) = base.filter(|b| !b.is_empty() && !b.contains('/')) else {
                let text = format!("the list of {own} shows {:?}, which is not in it", member.path);
                return Err(Trouble::new(Fault::Io, text));
            };
            let in_root = folder.is_empty();
            // Hidden: what servers keep for themselves (`.davfs.tmp…`, `.DAV`).
            if base.starts_with('.') || in_root && base == TEMPORARY {
                continue;
            }
            let name = format!("{folder}{base}");
            match member {
                _ if check_name(&name).is_err() => {
                    let (size, modified) = (member.size.unwrap_or(0), member.modified.unwrap_or_default());
                    found.push(Listed { name, size, modified });
                }
                Member { is_folder: true, .. } => inner.push(format!("{name}/")),
                Member { size: Some(size), modified: Some(modified), .. } => {
                    found.push(Listed { name, size, modified });
                }
                _ => {
                    return Err(Trouble::new(
                        Fault::Io,
                        format!("the server tells no size and date of {name}"),
                    ));
                }
            }
        }
        Ok((found, inner))
    }
}

/// The header of a login by name and password (RFC 7617).
fn basic(user: &str, password: &[u8]) -> Result<HeaderValue> {
    if user.contains(':') {
        return Err(Error::misuse("the name of a WebDAV user holds no colon"));
    }
    let plain = zeroize::Zeroizing::new([user.as_bytes(), b":", password].concat());
    let text = zeroize::Zeroizing::new(format!("Basic {}", base64(&plain)));
    let mut value = HeaderValue::from_str(&text).map_err(|e| Error::bug(format!("making a login: {e}")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group = three.iter().fold(0u32, |group, b| group << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            out.push(match digit <= three.len() {
                true => char::from(DIGITS[(group >> (18 - 6 * digit) & 63) as usize]),
                false => '=',
            });
        }
    }
    out
}

impl Store for WebDav {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        let doing = || format!("writing {name} to {}", self.location);
        let done = block_on(async {
            match self.write(name, bytes).await {
                Ok(true) => Ok(true),
                Ok(false) => self.is_same(name, bytes).await.map_err(|t| t.while_(doing())),
                Err(t) => Err(t.while_(doing())),
            }
        });
        match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::damaged("another object of that name is there already").while_(doing())),
            // The temporary file, or the object of another writer, went away between two requests.
            Err(e) if e.fault() == Fault::Missing => Err(e.as_fault(Fault::Busy)),
            Err(e) => Err(e),
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {name} from {}", self.location);
        let read = async {
            let mut bytes = Vec::new();
            let mut pieces = self.read(name, None).await?;
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                if (bytes.len() + piece.len()) as u64 > limit {
                    return Err(Trouble::new(Fault::Damaged, format!("it is longer than {limit} bytes")));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        block_on(async { read.await.map_err(|t| t.while_(doing())) })
    }

    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {length} bytes at {offset} of {name} from {}", self.location);
        let truncated = |size| Trouble::new(Fault::Damaged, format!("it is truncated: it ends after {size}"));
        // Servers count in signed numbers.
        let end = offset.checked_add(length as u64).filter(|end| *end <= i64::MAX as u64 / 2);
        let read = async {
            let (Some(end), true) = (end, length > 0) else {
                let size = self.must_see(name).await?.size.unwrap_or(0);
                return match end.is_some_and(|end| end <= size) {
                    true => Ok(Vec::new()),
                    false => Err(truncated(size)),
                };
            };
            // A wild length is not believed before so much has come.
            let mut bytes = Vec::with_capacity(length.min(BELIEVED));
            let mut pieces = self.read(name, Some((offset, end))).await?;
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece?);
                if bytes.len() > length {
                    return Err(Trouble::new(Fault::Io, "the server sends more than was asked for"));
                }
            }
            match bytes.len() == length {
                true => Ok(bytes),
                false => Err(truncated(offset + bytes.len() as u64)),
            }
        };
        block_on(async { read.await.map_err(|t| t.while_(doing())) })
    }

    fn size(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        let doing = || format!("looking up {name} in {}", self.location);
        let untold = || Trouble::new(Fault::Io, "the server tells no size");
        block_on(async {
            let found = self.must_see(name).await.and_then(|m| m.size.ok_or_else(untold));
            found.map_err(|t| t.while_(doing()))
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        let doing = |t: Trouble| t.while_(format!("listing {prefix} of {}", self.location));
        let one = |folder: String| again(async move || self.list_folder(&folder).await);
        block_on(async { list_below(prefix, one).await.map_err(doing) })
    }

    fn modified(&self, name: &str) -> Result<Time> {
        check_name(name)?;
        let doing = || format!("looking up {name} in {}", self.location);
        let untold = || Trouble::new(Fault::Io, "the server tells no date");
        block_on(async {
            let found = self.must_see(name).await.and_then(|m| m.modified.ok_or_else(untold));
            found.map_err(|t| t.while_(doing()))
        })
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        block_on(self.remove(name))
    }

    fn delete_all(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| check_name(name))?;
        let all = stream::iter(names).map(|name| self.remove(name));
        block_on(all.buffer_unordered(AT_A_TIME).try_collect())
    }

    fn nature(&self) -> Nature {
        Nature::FAR
    }

    /// Not: one server answers for all that was told it, and no cache on the way answers what is asked here.
    fn may_be_stale(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_written_as_the_rfc_has_them() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        let login = basic("Aladdin", b"open sesame").unwrap();
        assert_eq!(login.to_str().unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{login:?}").contains("QWx") && basic("a:b", b"").is_err());
    }
}
