//! SFTP (draft-ietf-secsh-filexfer-02, with the extensions of OpenSSH) through the system's ssh.
//!
//! A put writes below `tmp/`, syncs the file (`fsync@openssh.com`), gives it its name by a hard link
//! (`hardlink@openssh.com`), which never replaces another, and syncs again: on the file systems of Linux the second sync
//! makes the new name durable, too. Without hard links there is a look and a rename, and two writers that race may
//! replace one another. Large objects are written and read in many requests at a time.

use super::answer::{Answered, Trouble};
use super::session::{Session, Sessions, Use};
use super::{AT_A_TIME, Limits, again, block_on, list_below};
use crate::clock::{self, Time};
use crate::fault::{Error, Fault, Result};
use crate::id::hex;
use crate::storage::place::{Place, SftpPlace};
use crate::storage::{Listed, Nature, Options, Store, TEMPORARY, check_name, check_prefix};
use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt, stream};
use openssh_sftp_client::Error as SftpError;
use openssh_sftp_client::error::SftpErrorKind;
use openssh_sftp_client::file::File;
use openssh_sftp_client::metadata::{MetaData, Permissions};
use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncSeek;

/// What one request reads or writes: a little less than the 256 KiB of a packet of OpenSSH. Servers that take less are
/// asked again for the rest.
const PIECE: usize = 255 << 10;
/// Requests of one object that are on their way: 4 MiB, as much as a line of 1 Gbit/s and 30 ms holds.
const PIECES: usize = 16;
/// Longest part of an object that is asked for without a look at its length.
const BELIEVED: usize = 64 << 20;
/// How long one request may take: sync of a busy disk is the longest.
const NO_PROGRESS: Duration = Duration::from_secs(60);
/// No file is longer, and servers count in signed numbers.
const OBJECT_MAX: u64 = i64::MAX as u64 / 2;
/// How old a temporary file must be before it counts as left by a dead writer: longer than any put takes.
const ABANDONED_SECONDS: i64 = 24 * 60 * 60;

/// A folder of a machine that ssh reaches. See the module's text.
pub(super) struct Sftp {
    sessions: Sessions,
    limits: Arc<Limits>,
    /// As the server takes it.
    root: String,
    location: String,
    has_swept: AtomicBool,
}

impl Sftp {
    /// Asks nothing of the server yet.
    pub(super) fn open(place: &SftpPlace, options: &Options) -> Result<Self> {
        Ok(Self {
            sessions: Sessions::new(place.clone(), options.ssh_command.clone()),
            limits: Limits::new(options),
            root: place.path.clone(),
            location: Place::Sftp(place.clone()).to_string(),
            has_swept: AtomicBool::new(false),
        })
    }

    fn path(&self, name: &str) -> String {
        match name.trim_end_matches('/') {
            "" => self.root.clone(),
            name => format!("{}/{name}", self.root.trim_end_matches('/')),
        }
    }

    async fn write(&self, session: &Use, name: &str, bytes: &[u8]) -> Answered<bool> {
        if !self.has_swept.swap(true, Ordering::Relaxed) {
            self.sweep(session).await;
        }
        let temporary = self.path(&format!("{TEMPORARY}/{}", hex(&clock::random_array::<16>())));
        let create = || async { session.sftp.options().write(true).create_new(true).open(&temporary).await };
        let mut file = match ask(session, create()).await {
            Err(trouble) if trouble.fault == Fault::Missing => {
                self.make_folder(session, TEMPORARY).await?;
                ask(session, create()).await?
            }
            made => made?,
        };
        let written = self.fill(session, &mut file, bytes, &temporary, name).await;
        // Its name is gone when it was renamed; a later sweep gets what stays.
        let mut fs = session.sftp.fs();
        let (removed, closed) = futures_util::future::join(
            ask(session, async { fs.remove_file(&temporary).await }),
            ask(session, file.close()),
        )
        .await;
        drop(removed);
        let done = written?;
        closed?;
        Ok(done)
    }

    /// Writes a temporary file and gives it its name; `false` if something has it.
    async fn fill(
        &self,
        session: &Use,
        file: &mut File,
        bytes: &[u8],
        temporary: &str,
        name: &str,
    ) -> Answered<bool> {
        let handle = &*file;
        stream::iter(bytes.chunks(PIECE).enumerate())
            .map(|(at, piece)| self.write_piece(session, handle.clone(), at * PIECE, piece))
            .buffer_unordered(PIECES)
            .try_collect::<()>()
            .await?;
        sync(session, file).await?;
        let placed = match self.place(session, temporary, name).await {
            Err(trouble) if trouble.fault == Fault::Missing => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                self.make_folder(session, folder).await?;
                self.place(session, temporary, name).await?
            }
            placed => placed?,
        };
        if placed {
            sync(session, file).await?;
        }
        Ok(placed)
    }

    async fn write_piece(
        &self,
        session: &Session,
        mut file: File,
        at: usize,
        mut piece: &[u8],
    ) -> Answered<()> {
        tokio::time::sleep(self.limits.up.take(piece.len())).await;
        seek(&mut file, at as u64);
        while !piece.is_empty() {
            let written = ask(session, file.write(piece)).await?;
            piece = piece.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Gives a temporary file its name; `false` if something has it.
    async fn place(&self, session: &Session, temporary: &str, name: &str) -> Answered<bool> {
        let (to, mut fs) = (self.path(name), session.sftp.fs());
        if session.sftp.support_hardlink() {
            match ask(session, async { fs.hard_link(temporary, &to).await }).await {
                Ok(()) => return Ok(true),
                Err(trouble) if trouble.fault == Fault::Missing => return Err(trouble),
                // In this protocol "it is there already" and "this file system has none" are the same words.
                Err(trouble) if trouble.fault == Fault::Busy => return Err(trouble),
                Err(_) => {}
            }
        }
        match self.look(session, name).await {
            Ok(_) => return Ok(false),
            Err(trouble) if trouble.fault == Fault::Missing => {}
            Err(trouble) => return Err(trouble),
        }
        ask(session, async { fs.rename(temporary, &to).await }).await.map(|()| true)
    }

    /// Makes a folder, and those above it. Who finds one there has what they want.
    async fn make_folder(&self, session: &Session, folder: &str) -> Answered<()> {
        let path = self.path(folder);
        let mut fs = session.sftp.fs();
        let mut make = async || {
            let mut builder = fs.dir_builder();
            if folder.is_empty() {
                builder.permissions(owners_alone());
            }
            ask(session, builder.create(&path)).await
        };
        match make().await {
            Ok(()) => return Ok(()),
            Err(trouble) if trouble.fault == Fault::Missing => {}
            // It is there, or it cannot be made: who writes to it next is told.
            Err(trouble) if trouble.fault == Fault::Io => return Ok(()),
            Err(trouble) => return Err(trouble),
        }
        match folder.rsplit_once('/') {
            Some((above, _)) => Box::pin(self.make_folder(session, above)).await?,
            None if folder.is_empty() => self.make_above(session).await?,
            None => Box::pin(self.make_folder(session, "")).await?,
        }
        match make().await {
            Err(trouble) if trouble.fault != Fault::Io => Err(trouble),
            _ => Ok(()),
        }
    }

    /// Makes the folders above the store's own.
    async fn make_above(&self, session: &Session) -> Answered<()> {
        let mut fs = session.sftp.fs();
        let ends = self.root.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        for end in ends {
            match ask(session, async { fs.create_dir(&self.root[..end]).await }).await {
                Err(trouble) if !matches!(trouble.fault, Fault::Io | Fault::Denied) => return Err(trouble),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is known of an object without reading it.
    async fn look(&self, session: &Session, name: &str) -> Answered<MetaData> {
        let (path, mut fs) = (self.path(name), session.sftp.fs());
        let found = ask(session, async { fs.symlink_metadata(&path).await }).await?;
        match found.file_type().is_none_or(|t| t.is_file()) {
            true => Ok(found),
            false => Err(Trouble::new(Fault::Damaged, "it is not a regular file")),
        }
    }

    async fn open_file(&self, session: &Session, name: &str) -> Answered<File> {
        let path = self.path(name);
        ask(session, async { session.sftp.options().read(true).open(&path).await }).await
    }

    /// Up to `length` bytes from `offset`: less where the file ends before.
    async fn read_piece(
        &self,
        session: &Session,
        mut file: File,
        offset: u64,
        length: usize,
    ) -> Answered<Vec<u8>> {
        tokio::time::sleep(self.limits.down.take(length)).await;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            seek(&mut file, offset + bytes.len() as u64);
            let wanted = u32::try_from(length - bytes.len()).unwrap_or(u32::MAX);
            match ask(session, file.read(wanted, BytesMut::new())).await? {
                Some(read) if read.is_empty() => break,
                Some(read) if bytes.is_empty() => bytes = Vec::from(read),
                Some(read) => bytes.extend_from_slice(&read),
                None => break,
            }
        }
        Ok(bytes)
    }

    /// `length` bytes from `offset`, in order, or as many as there are.
    async fn read(&self, session: &Session, file: &File, offset: u64, length: usize) -> Answered<Vec<u8>> {
        if length <= PIECE {
            return self.read_piece(session, file.clone(), offset, length).await;
        }
        let mut pieces = stream::iter((0..length).step_by(PIECE))
            .map(|at| self.read_piece(session, file.clone(), offset + at as u64, PIECE.min(length - at)))
            .buffered(PIECES);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|e| Trouble::new(Fault::Full, e.to_string()))?;
        let mut at = 0;
        while let Some(piece) = pieces.try_next().await? {
            bytes.extend_from_slice(&piece);
            at += PIECE.min(length - at);
            if bytes.len() < at {
                break;
            }
        }
        Ok(bytes)
    }

    async fn get_whole(&self, session: &Use, name: &str, limit: u64) -> Answered<Vec<u8>> {
        let file = self.open_file(session, name).await?;
        // Most objects that are read whole are small: their first piece is all, and comes with their length.
        let first = self.read_piece(session, file.clone(), 0, PIECE);
        let mut stated = file.clone();
        let (first, metadata) = futures_util::future::join(first, ask(session, stated.metadata())).await;
        let (mut bytes, size) = (first?, metadata?.len().unwrap_or(0));
        drop(stated);
        let too_long = || Trouble::new(Fault::Damaged, format!("it is longer than {limit} bytes"));
        if size > limit {
            return Err(too_long());
        }
        let left = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(bytes.len());
        if left > 0 && bytes.len() >= PIECE {
            let at = bytes.len() as u64;
            let rest = self.read(session, &file, at, left).await?;
            bytes.extend_from_slice(&rest);
        }
        match bytes.len() as u64 {
            len if len > limit => Err(too_long()),
            len if len != size => {
                Err(Trouble::new(Fault::Damaged, format!("it ends after {len} of {size} bytes")))
            }
            _ => Ok(bytes),
        }
    }

    async fn get_range(&self, session: &Use, name: &str, offset: u64, length: usize) -> Answered<Vec<u8>> {
        let truncated = |size| Trouble::new(Fault::Damaged, format!("it is truncated: it ends after {size}"));
        let end = offset.checked_add(length as u64).filter(|end| *end <= OBJECT_MAX);
        // A wild length is not believed before the file is seen to have it.
        if end.is_none() || length == 0 || length > BELIEVED {
            let size = self.look(session, name).await?.len().unwrap_or(0);
            match end.is_some_and(|end| end <= size) {
                true if length == 0 => return Ok(Vec::new()),
                true => {}
                false => return Err(truncated(size)),
            }
        }
        let file = self.open_file(session, name).await?;
        let bytes = self.read(session, &file, offset, length).await?;
        match bytes.len() == length {
            true => Ok(bytes),
            false => Err(truncated(offset + bytes.len() as u64)),
        }
    }

    /// Lists one folder: what is in it, and the folders that are.
    async fn list_folder(&self, session: &Session, folder: String) -> Answered<(Vec<Listed>, Vec<String>)> {
        let (mut found, mut inner) = (Vec::new(), Vec::new());
        let (path, mut fs) = (self.path(&folder), session.sftp.fs());
        let opened = ask(session, async { fs.open_dir(&path).await }).await;
        let mut entries = match opened {
            Err(trouble) if trouble.fault == Fault::Missing => return Ok((found, inner)),
            dir => Box::pin(dir?.read_dir()),
        };
        while let Some(entry) = ask(session, entries.try_next()).await? {
            let base = entry.filename().to_string_lossy().into_owned();
            let in_root = folder.is_empty();
            if base.starts_with('.') || in_root && (base == TEMPORARY || base == "lost+found") {
                continue;
            }
            let (name, about) = (format!("{folder}{base}"), entry.metadata());
            let kind = about.file_type();
            let is_folder = kind.is_some_and(|k| k.is_dir());
            // It may lead to a folder, whose objects would look as if they were gone.
            if kind.is_some_and(|k| k.is_symlink()) {
                let text = format!("{name:?} is a symbolic link, and a repository holds none");
                return Err(Trouble::new(Fault::Damaged, text));
            }
            match is_folder && check_name(&name).is_ok() {
                true => inner.push(format!("{name}/")),
                false => found.push(Listed { name, size: about.len().unwrap_or(0), modified: date(&about) }),
            }
        }
        Ok((found, inner))
    }

    /// The same; with another session where this one has ended.
    async fn list_again(&self, session: &Session, folder: String) -> Answered<(Vec<Listed>, Vec<String>)> {
        match self.list_folder(session, folder.clone()).await {
            Err(trouble) if trouble.fault == Fault::Busy => {}
            done => return done,
        }
        again(async || self.list_folder(&*self.sessions.get().await?, folder.clone()).await).await
    }

    /// Removes what dead writers left below `tmp/`. It is a courtesy.
    async fn sweep(&self, session: &Session) {
        let Ok((found, _)) = self.list_folder(session, format!("{TEMPORARY}/")).await else { return };
        let now = clock::now().seconds;
        for old in found.iter().filter(|l| now - l.modified.seconds > ABANDONED_SECONDS) {
            let (path, mut fs) = (self.path(&old.name), session.sftp.fs());
            let _ = ask(session, async { fs.remove_file(&path).await }).await;
        }
    }

    async fn remove(&self, session: &Session, name: &str) -> Answered<()> {
        let (path, mut fs) = (self.path(name), session.sftp.fs());
        match ask(session, async { fs.remove_file(&path).await }).await {
            Err(trouble) if trouble.fault == Fault::Missing => Ok(()),
            done => done,
        }
    }

    /// Does something with a session that lives.
    fn with<T>(
        &self,
        doing: impl FnOnce() -> String,
        work: impl AsyncFnOnce(Use) -> Answered<T>,
    ) -> Result<T> {
        block_on(async {
            let done = match self.sessions.get().await {
                Ok(session) => work(session).await,
                Err(trouble) => Err(trouble),
            };
            done.map_err(|t| t.while_(doing()))
        })
    }
}

/// Waits for an answer, and says what it means.
async fn ask<T>(
    session: &Session,
    request: impl Future<Output = std::result::Result<T, SftpError>>,
) -> Answered<T> {
    match tokio::time::timeout(NO_PROGRESS, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(SftpError::SftpError(kind, text))) => {
            let fault = match kind {
                SftpErrorKind::NoSuchFile => Fault::Missing,
                SftpErrorKind::PermDenied => Fault::Denied,
                _ => Fault::Io,
            };
            Err(Trouble::new(fault, format!("the server says: {text}")))
        }
        Ok(Err(e)) => Err(session.broken(&format!("the session ended: {e}"))),
        Err(_) => Err(session.broken(&format!("nothing came for {} seconds", NO_PROGRESS.as_secs()))),
    }
}

/// Makes a file durable, where the server can.
async fn sync(session: &Session, file: &mut File) -> Answered<()> {
    match session.sftp.support_fsync() {
        true => ask(session, file.sync_all()).await,
        false => Ok(()),
    }
}

/// Where the next request reads or writes; nothing is sent.
fn seek(file: &mut File, at: u64) {
    let _ = Pin::new(file).start_seek(SeekFrom::Start(at));
}

/// The mode of a new store's folder, 0700: names and sizes of what is in it are nobody else's business.
fn owners_alone() -> Permissions {
    let mut mode = Permissions::new();
    mode.set_read_by_owner(true).set_write_by_owner(true).set_execute_by_owner(true);
    mode
}

/// When a file was written, in seconds.
fn date(about: &MetaData) -> Time {
    Time { seconds: about.modified().map_or(0, |m| i64::from(m.into_raw())), nanos: 0 }
}

impl Store for Sftp {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        let doing = || format!("writing {name} to {}", self.location);
        let done = self.with(doing, async |session| match self.write(&session, name, bytes).await? {
            true => Ok(true),
            // One byte more tells whether it is longer.
            false => match self.get_whole(&session, name, bytes.len() as u64).await {
                Ok(found) => Ok(found == bytes),
                Err(trouble) if trouble.fault == Fault::Damaged => Ok(false),
                Err(trouble) => Err(trouble),
            },
        });
        match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::damaged("another object of that name is there already").while_(doing())),
            // Somebody cleared `tmp/`, or deleted the object of another writer, between two requests.
            Err(e) if e.fault() == Fault::Missing => Err(e.as_fault(Fault::Busy)),
            Err(e) => Err(e),
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {name} from {}", self.location);
        self.with(doing, async |session| self.get_whole(&session, name, limit).await)
    }

    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        check_name(name)?;
        let doing = || format!("reading {length} bytes at {offset} of {name} from {}", self.location);
        self.with(doing, async |session| self.get_range(&session, name, offset, length).await)
    }

    fn size(&self, name: &str) -> Result<u64> {
        check_name(name)?;
        let doing = || format!("looking up {name} in {}", self.location);
        self.with(doing, async |session| Ok(self.look(&session, name).await?.len().unwrap_or(0)))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        let doing = || format!("listing {prefix} of {}", self.location);
        self.with(doing, async |session| {
            let mut found = list_below(prefix, |folder| self.list_again(&session, folder)).await?;
            // A folder that changes while it is read may show an entry twice.
            found.sort_unstable_by(|a: &Listed, b| a.name.cmp(&b.name));
            found.dedup_by(|a, b| a.name == b.name);
            Ok(found)
        })
    }

    fn modified(&self, name: &str) -> Result<Time> {
        check_name(name)?;
        let doing = || format!("looking up {name} in {}", self.location);
        self.with(doing, async |session| Ok(date(&self.look(&session, name).await?)))
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let doing = || format!("deleting {name} from {}", self.location);
        self.with(doing, async |session| self.remove(&session, name).await)
    }

    fn delete_all(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| check_name(name))?;
        let doing = || format!("deleting {} objects from {}", names.len(), self.location);
        self.with(doing, async |session| {
            let all = stream::iter(names).map(|name| self.remove(&session, name));
            all.buffer_unordered(AT_A_TIME).try_collect().await
        })
    }

    fn nature(&self) -> Nature {
        Nature::FAR
    }

    /// Not: one server answers for all that was told it.
    fn may_be_stale(&self) -> bool {
        false
    }
}
