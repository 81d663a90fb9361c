//! S3: buckets of AWS, Ceph, Garage, MinIO and the like, through opendal.
//!
//! A put is one conditional PUT (`If-None-Match: *`) where the server knows those, else a look and a PUT. An object is
//! there whole or not at all, as S3 promises. What was cut off in the middle of a multipart upload is no object, but
//! costs space until it is aborted: by us, or by a rule of the bucket (`AbortIncompleteMultipartUpload`).

use super::answer::Trouble;
use super::aws::Settings;
use super::wire::{Wire, check_plain};
use super::{AT_A_TIME, LIST_PAUSE, LIST_TRIES, Limits, block_on};
use crate::clock::Time;
use crate::fault::{Error, Fault, Result};
use crate::storage::place::{Place, S3Place};
use crate::storage::{Listed, Nature, Options, Store, TEMPORARY, check_name, check_prefix};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use opendal::options::{ListOptions, ReaderOptions, WriteOptions};
use opendal::{Buffer, ErrorKind, HttpTransporter, Metadata, OperationContext, Operator};
use std::sync::atomic::{AtomicBool, Ordering};

/// Objects from this length on are uploaded in parts: what a broken line costs is a part and not the whole. Below it
/// parts only cost: three requests more, and no condition (Ceph overwrites at the end of an upload in parts).
const PARTS_FROM: usize = 64 << 20;
/// Length of a part; S3 takes 5 MiB to 5 GiB.
const PART: usize = 16 << 20;
/// Parts of an object that are sent at a time.
const PARTS_AT_A_TIME: usize = 4;
/// Longest object of any S3 server (AWS: 5 TiB then, 48.8 TiB now): no range beyond it needs to be asked for, and some
/// servers misread the numbers.
const OBJECT_MAX: u64 = 1 << 46;
/// Objects that one request lists, or deletes.
const PAGE: usize = 1000;
/// Where nobody says otherwise; servers other than AWS do not care.
const REGION: &str = "us-east-1";

/// A prefix of a bucket. See the module's text.
pub(super) struct S3 {
    /// For objects in one piece: with their MD5, which all servers check, and those with object lock demand.
    whole: Operator,
    /// For objects in parts.
    parts: Operator,
    location: String,
    /// Whether the server knows conditional puts, as far as we have seen.
    conditional: AtomicBool,
}

impl S3 {
    /// Asks nothing of the server yet.
    pub(super) fn open(place: &S3Place, options: &Options) -> Result<Self> {
        let found = Settings::find(place.profile.as_deref());
        let endpoint = place.endpoint.clone().or(found.endpoint);
        if let Some(url) = &endpoint {
            let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
                (Some(rest), _) => (true, rest),
                (_, Some(rest)) => (false, rest),
                _ => {
                    return Err(Error::misuse(format!("the endpoint {url} is no URL"))
                        .hint("it looks like https://s3.example.com or http://127.0.0.1:9000"));
                }
            };
            let host = rest.split(['/', '?']).next().unwrap_or_default();
            if host.contains('@') {
                return Err(Error::misuse("a user or key in the URL of an endpoint is not taken"));
            }
            check_plain(tls, host, options.insecure_http)?;
        }
        let region = place.region.clone().or(found.region).unwrap_or_else(|| REGION.into());
        let wire = Wire::new(Limits::new(options), options.cacert.as_deref())?;
        let location = Place::S3(S3Place { endpoint: endpoint.clone(), ..place.clone() }).to_string();
        let operator = |checksum: Option<&str>| -> Result<Operator> {
            let mut s3 = opendal::services::S3::default()
                .bucket(&place.bucket)
                .root(&format!("/{}", place.prefix))
                .region(&region);
            // Other servers mostly have no name of their own for each bucket, and a dot in a bucket's name fits no
            // certificate.
            let path_style = place.path_style.unwrap_or(endpoint.is_some() || place.bucket.contains('.'));
            if !path_style {
                s3 = s3.enable_virtual_host_style();
            }
            if let Some(endpoint) = &endpoint {
                s3 = s3.endpoint(endpoint);
            }
            if let Some(profile) = &place.profile {
                s3 = s3.profile(profile);
            }
            if let Some((key, secret)) = &options.s3_keys {
                s3 = s3.access_key_id(key).secret_access_key(secret);
            }
            if let Some(class) = &place.storage_class {
                s3 = s3.default_storage_class(class);
            }
            if let Some(checksum) = checksum {
                s3 = s3.checksum_algorithm(checksum);
            }
            if std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|v| v.eq_ignore_ascii_case("true")) {
                s3 = s3.disable_ec2_metadata();
            }
            let built =
                Operator::new(s3).map_err(|e| Error::misuse(format!("{}: {}", location, e.message())))?;
            let transport = HttpTransporter::new(wire.clone());
            Ok(built.with_context(OperationContext::new().with_http_transport(transport)))
        };
        // There is no MD5 for parts; CRC-32C only AWS is known to check.
        let is_aws = endpoint.as_ref().is_none_or(|e| e.contains(".amazonaws.com"));
        Ok(Self {
            whole: operator(Some("md5"))?,
            parts: operator(is_aws.then_some("crc32c"))?,
            location,
            conditional: AtomicBool::new(true),
        })
    }

    async fn put_whole(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let body = Buffer::from(Bytes::copy_from_slice(bytes));
        if self.conditional.load(Ordering::Relaxed) {
            let absent = WriteOptions { if_not_exists: true, ..WriteOptions::default() };
            match self.whole.write_options(name, body.clone(), absent).await {
                Ok(_) => return Ok(()),
                // Ours as well, if a try before this one came through and its answer did not.
                Err(e) if e.kind() == ErrorKind::ConditionNotMatch => return self.confirm(name, bytes).await,
                Err(e) if is_unknown(&e) => self.conditional.store(false, Ordering::Relaxed),
                Err(e) => return Err(self.failed(&e, || self.writing(name))),
            }
        }
        if self.look(name).await?.is_some() {
            return self.confirm(name, bytes).await;
        }
        let written = self.whole.write_options(name, body, WriteOptions::default()).await;
        written.map(drop).map_err(|e| self.failed(&e, || self.writing(name)))
    }

    async fn put_in_parts(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.look(name).await?.is_some() {
            return self.confirm(name, bytes).await;
        }
        let options =
            WriteOptions { concurrent: PARTS_AT_A_TIME, chunk: Some(PART), ..WriteOptions::default() };
        let failed = |e| self.failed(&e, || self.writing(name));
        let mut writer = self.parts.writer_options(name, options).await.map_err(failed)?;
        let mut sent = Ok(());
        for part in bytes.chunks(PART) {
            sent = writer.write(Bytes::copy_from_slice(part)).await;
            if sent.is_err() {
                break;
            }
        }
        let done = match sent {
            Ok(()) => writer.close().await.map(drop),
            Err(e) => Err(e),
        };
        if done.is_err() {
            // If this fails too, the bucket's own rule gets it.
            let _ = writer.abort().await;
        }
        done.map_err(failed)
    }

    fn writing(&self, name: &str) -> String {
        format!("writing {name} to {}", self.location)
    }

    /// What is known of an object without reading it.
    async fn look(&self, name: &str) -> Result<Option<Metadata>> {
        match self.whole.stat(name).await {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(&e, || format!("looking up {name} in {}", self.location))),
        }
    }

    async fn must_see(&self, name: &str) -> Result<Metadata> {
        self.look(name).await?.ok_or_else(|| {
            Error::new(Fault::Missing, format!("looking up {name} in {}: it is not there", self.location))
        })
    }

    /// Whether the object that is there has these bytes; else `Damaged`.
    async fn confirm(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (mut rest, mut equal) = (bytes, true);
        self.stream(
            name,
            ..,
            || format!("comparing {name} of {}", self.location),
            |piece| {
                equal = rest.get(..piece.len()) == Some(piece);
                rest = rest.get(piece.len()..).unwrap_or_default();
                equal
            },
        )
        .await?;
        match equal && rest.is_empty() {
            true => Ok(()),
            false => {
                Err(Error::damaged("another object of that name is there already").while_(self.writing(name)))
            }
        }
    }

    /// Reads with one request and hands piece after piece to `take`, until it wants no more.
    async fn stream(
        &self,
        name: &str,
        range: impl std::ops::RangeBounds<u64>,
        doing: impl Fn() -> String,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<()> {
        let read = async {
            let reader = self.whole.reader_options(name, ReaderOptions::default()).await?;
            let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
            let mut stream = reader.into_stream(bounds).await?;
            while let Some(buffer) = stream.try_next().await? {
                for piece in buffer {
                    if !take(&piece) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        };
        read.await.map_err(|e: opendal::Error| self.failed(&e, doing))
    }

    /// Lists what is below a folder and behind the last one that was `found`.
    async fn list_on(&self, below: &str, found: &mut Vec<Listed>) -> Result<()> {
        let after = found.last().map(|l: &Listed| l.name.clone());
        let options = ListOptions { recursive: true, start_after: after.clone(), ..ListOptions::default() };
        let failed = |e| self.failed(&e, || "reading a page of the list".into());
        let mut entries = self.whole.lister_options(below, options).await.map_err(failed)?;
        while let Some(entry) = entries.try_next().await.map_err(failed)? {
            let name = entry.path();
            // Markers of folders, as web pages make them; what other stores keep under that name; and what a server that
            // does not know where to begin shows again.
            let is_known = after.as_deref().is_some_and(|after| name <= after);
            if name.ends_with('/') || name.split('/').next() == Some(TEMPORARY) || is_known {
                continue;
            }
            let metadata = entry.metadata();
            let (size, modified) = (metadata.content_length(), date(metadata));
            found.push(Listed { name: name.to_owned(), size, modified });
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        match self.whole.delete(name).await {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(self.failed(&e, || format!("deleting {name} from {}", self.location))),
        }
    }

    /// An error of opendal as ours.
    fn failed(&self, e: &opendal::Error, doing: impl FnOnce() -> String) -> Error {
        trouble(e).while_(doing())
    }
}

/// Whether the server says that it does not know how.
fn is_unknown(e: &opendal::Error) -> bool {
    let text = e.to_string();
    text.contains("NotImplemented") || text.contains("status: 501")
}

/// What an error of opendal means.
fn trouble(e: &opendal::Error) -> Trouble {
    let mut at = std::error::Error::source(e);
    while let Some(cause) = at {
        if let Some(known) = cause.downcast_ref::<Trouble>() {
            return known.clone();
        }
        let text = cause.to_string();
        if text.to_ascii_lowercase().contains("credential") {
            return Trouble::new(Fault::Denied, format!("there are no keys for the store: {text}"))
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for one in ~/.aws");
        }
        at = cause.source();
    }
    // A part beyond the end: the server has sent all that there is. What was cut off on the way is temporary.
    if e.message().contains("too little data") && !e.is_temporary() {
        return Trouble::new(Fault::Damaged, "it is truncated: it ends before");
    }
    // opendal keeps the server's answer only as text: `S3Error { code: "…", message: "…", … }`.
    if let Some(rest) = e.message().strip_prefix("S3Error { code: \"") {
        let (code, rest) = rest.split_once('"').unwrap_or((rest, ""));
        let message = rest
            .strip_prefix(", message: \"")
            .and_then(|m| m.split_once("\", resource: "))
            .map_or("", |m| m.0);
        let status = status_of(e).and_then(|s| StatusCode::from_u16(s).ok());
        return Trouble::of_s3(code, message, status).or_by(e);
    }
    let text = format!("{}: {}", e.kind(), e.message()).trim_end_matches([':', ' ']).to_owned();
    // The answer to a HEAD has no words.
    match status_of(e) {
        Some(status @ (500 | 507)) => {
            Trouble::of_status(StatusCode::from_u16(status).unwrap_or_default(), "")
        }
        _ => Trouble::new(fault_of(e), text),
    }
}

/// The status of the answer, which opendal keeps in the context of its error alone: `response: Parts { status: 500, …`.
fn status_of(e: &opendal::Error) -> Option<u16> {
    let text = e.to_string();
    let (_, rest) = text.split_once("Parts { status: ")?;
    rest.get(..3)?.parse().ok()
}

impl Trouble {
    /// What the code leaves open, the kind of the error tells.
    fn or_by(mut self, e: &opendal::Error) -> Self {
        if self.fault == Fault::Io
            || self.fault == Fault::Busy && !e.is_temporary() && fault_of(e) != Fault::Io
        {
            self.fault = fault_of(e);
        }
        self
    }
}

fn fault_of(e: &opendal::Error) -> Fault {
    match e.kind() {
        ErrorKind::NotFound => Fault::Missing,
        ErrorKind::PermissionDenied => Fault::Denied,
        ErrorKind::RangeNotSatisfied => Fault::Damaged,
        ErrorKind::RateLimited | ErrorKind::Conflict => Fault::Busy,
        ErrorKind::ConfigInvalid | ErrorKind::Unsupported => Fault::Misuse,
        _ if e.is_temporary() => Fault::Busy,
        _ => Fault::Io,
    }
}

/// When an object was written, in seconds: lists know fractions that a look at one object does not tell.
fn date(metadata: &Metadata) -> Time {
    let at = metadata.last_modified().map(std::time::SystemTime::from);
    Time { nanos: 0, ..at.map(Time::from).unwrap_or_default() }
}

impl Store for S3 {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        match bytes.len() < PARTS_FROM {
            true => block_on(self.put_whole(name, bytes)),
            false => block_on(self.put_in_parts(name, bytes)),
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {name} from {}", self.location);
        let mut bytes = Vec::new();
        let mut fits = true;
        block_on(self.stream(name, .., doing, |piece| {
            fits = (bytes.len() + piece.len()) as u64 <= limit;
            if fits {
                bytes.extend_from_slice(piece);
            }
            fits
        }))?;
        match fits {
            true => Ok(bytes),
            false => Err(Error::damaged(format!("it is longer than {limit} bytes")).while_(doing())),
        }
    }

    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {length} bytes at {offset} of {name} from {}", self.location);
        let truncated =
            |size: u64| Error::damaged(format!("it is truncated: it ends after {size}")).while_(doing());
        let end = offset.checked_add(length as u64).filter(|end| *end <= OBJECT_MAX);
        let (Some(end), true) = (end, length > 0) else {
            let size = block_on(self.must_see(name))?.content_length();
            return match end.is_some_and(|end| end <= size) {
                true => Ok(Vec::new()),
                false => Err(truncated(size)),
            };
        };
        // A wild length is not believed before so much has come.
        let mut bytes = Vec::with_capacity(length.min(PART));
        let read = block_on(self.stream(name, offset..end, doing, |piece| {
            bytes.extend_from_slice(piece);
            bytes.len() <= length
        }));
        match read {
            Ok(()) if bytes.len() == length => Ok(bytes),
            Ok(()) => Err(truncated(offset + bytes.len() as u64)),
            Err(e) => Err(e),
        }
    }

    fn size(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        Ok(block_on(self.must_see(name))?.content_length())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        let below = if prefix.is_empty() { "/" } else { prefix };
        block_on(async {
            let (mut found, mut tries) = (Vec::new(), 1);
            loop {
                let before = found.len();
                let Err(e) = self.list_on(below, &mut found).await else { return Ok(found) };
                if found.len() > before {
                    tries = 1;
                }
                // Names come in their order (of S3's directory buckets they do not), so that what has come need not come again.
                let goes_on = !found.is_empty() && found.is_sorted_by(|a, b| a.name < b.name);
                if e.fault() != Fault::Busy || !goes_on || tries >= LIST_TRIES {
                    return Err(e.while_(format!("listing {prefix} of {}", self.location)));
                }
                tokio::time::sleep(LIST_PAUSE * tries).await;
                tries += 1;
            }
        })
    }

    fn modified(&self, name: &str) -> Result<Time> {
        check_name(name)?;
        Ok(date(&block_on(self.must_see(name))?))
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        block_on(self.remove(name))
    }

    /// By one request for each 1,000 (DeleteObjects); one by one where the server does not know that, or some of them
    /// did not go.
    fn delete_all(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| check_name(name))?;
        block_on(async {
            let Err(e) = self.whole.delete_iter(names.iter().map(String::as_str)).await else {
                return Ok(());
            };
            if e.is_temporary() {
                let doing = || format!("deleting {} objects from {}", names.len(), self.location);
                return Err(self.failed(&e, doing));
            }
            // A server that knows no such requests, or that refused some: of one object it says why.
            let all = stream::iter(names).map(|name| self.remove(name));
            all.buffer_unordered(AT_A_TIME).try_collect().await
        })
    }

    fn nature(&self) -> Nature {
        Nature { is_far: true, list_page: PAGE, delete_batch: PAGE }
    }

    /// Not: AWS (since December 2020) and Ceph show all that was answered before.
    fn may_be_stale(&self) -> bool {
        false
    }
}
