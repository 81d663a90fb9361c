//! Runs a mount: the kernel's requests, new snapshots, signals, each on threads of their own that end
//! together.

use super::Options;
use super::eviction::Eviction;
use super::fuse::Fuse;
use super::inodes::{Node, ROOT};
use super::mountpoint::{self, Backing, Mounted, NAME};
use super::pushing::Due;
use super::session::Signals;
use super::snapshots::{Changes, Shown};
use super::view::{Setting, View};
use super::waiting::Waiting;
use crate::event::{Event, Observer};
use crate::fault::{Doing, Error, Fault, Result};
use crate::tree::Chunks;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use fuser::{Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Read-ahead of the kernel, where we may set it (root): hides what decoding takes.
const READ_AHEAD_KIB: u32 = 4096;
/// Threads at least, so that one that waits for the store does not keep the others.
const THREADS_MIN: usize = 2;
/// Threads at most.
const THREADS_MAX: usize = 16;

/// Folders that wait to be pushed; more are not taken.
const DUE_MAX: usize = 16;

/// Folders that a walk has come to and that wait; more are not taken.
const WALKED_MAX: usize = 4;

/// Lists the snapshots that are there now. Looks for the repository anew where reading is told to be `lost` (a list may
/// still come from the kernel's cache then), or where the list fails.
pub(super) type List = Box<dyn Fn(bool) -> Result<Listed> + Send>;

/// What [`List`] found.
pub(super) struct Listed {
    /// The snapshots, oldest first.
    pub shown: Vec<Shown>,
    /// The repository is another folder than before.
    pub found_again: bool,
}

/// What the thread that tells the kernel is to tell.
enum Notice {
    Changed(Changes),
    /// The kernel may hold too many nodes.
    Crowded,
}

/// Mounts, and returns when it is over.
pub(super) fn serve(
    shelf: Arc<dyn Chunks + Send + Sync>,
    setting: Setting,
    options: &Options,
    backing: &Backing,
    list: List,
    observer: Arc<dyn Observer>,
    ready: impl FnOnce() + Send,
) -> Result<()> {
    mountpoint::check_means(options.allow_other)?;
    let path = mountpoint::prepare(&options.mountpoint, &backing.folders)?;
    let view = Arc::new(View::new(shelf, setting, observer.clone()));
    view.refresh(list(false)?.shown);

    let (crowded, is_crowded) = bounded(1);
    let ring = crowded.clone();
    // A bell that rings already need not be rung again.
    let limit = options.max_inodes;
    let crowd = move || drop(ring.try_send(Notice::Crowded));
    let (owe, owed) = bounded::<Due>(DUE_MAX);
    let push = {
        let view = view.clone();
        move |due| {
            if let Err(e) = owe.try_send(due) {
                view.leave(&e.into_inner());
            }
        }
    };
    let (walk, walked) = bounded::<Arc<Node>>(WALKED_MAX);
    // Where there is more to do than is done, the walk waits for what it needs as it would without.
    let walk = move |folder| drop(walk.try_send(folder));
    let threads = threads(options);
    let waiting = Arc::new(Waiting::new(threads));
    let fuse = Fuse::new(view.clone(), options.allow_other, limit, crowd, push, walk, waiting.clone());
    let session = attach(fuse, &path, options, threads, &backing.source).map_err(|e| refused(&path, e))?;
    // With a single processor, who stays awake keeps the walk from going on.
    if cores() > 1
        && let Ok(device) = session.as_fd().try_clone_to_owned()
    {
        waiting.on(device);
    }
    // The device is held by those alone who answer, and so no longer than the session.
    drop(waiting);
    let mut mounted = Unmount(mountpoint::mounted_at(&path)?);
    if let Some(m) = &mounted.0
        && rustix::process::geteuid().is_root()
        && let Err(e) = mountpoint::set_read_ahead(m, READ_AHEAD_KIB)
    {
        observer.event(Event::Detail(&format!("the kernel's read-ahead stays as it is: {e}")));
    }
    let ours = mounted.0.clone();
    let signals = Signals::watch(move |before| {
        // The first signal lets what is open go on; the second does not.
        let result = match &ours {
            Some(m) if before > 0 => mountpoint::abort(m),
            Some(m) => mountpoint::detach_if_there(m),
            None => Ok(()),
        };
        if let Err(e) = result {
            observer.event(Event::Warning(&format!("unmounting: {e}")));
        }
    })?;
    let (stop, stopped) = bounded::<()>(0);
    let (tell, told) = bounded(4);
    let helpers = [
        spawn("tell", {
            let (view, notifier) = (view.clone(), session.notifier());
            let device = session.as_fd().try_clone_to_owned().ok();
            let eviction = Eviction::new(limit, session.notifier(), device);
            move || tell_kernel(&view, &notifier, eviction, &told, &is_crowded)
        })?,
        spawn("push", {
            let (view, notifier) = (view.clone(), session.notifier());
            move || push_files(&view, &notifier, &owed)
        })?,
        spawn("decode", {
            let view = view.clone();
            move || walked.iter().for_each(|folder| view.decode_ahead(&folder))
        })?,
        spawn("refresh", {
            let refresh = options.refresh;
            move || look_for_snapshots(&view, &list, refresh, &tell, &stopped)
        })?,
    ];
    ready();
    let result = session.run();
    if result.is_ok() {
        // The kernel has ended it: it was taken off. What is mounted there by now is another one, and may have the number of this
        // one's device, which are given anew.
        mounted.0 = None;
    }
    drop(mounted);
    // The threads end when nobody is left to send them anything.
    drop((stop, crowded));
    for thread in helpers {
        let _ = thread.join();
    }
    signals.end();
    result.doing(|| format!("serving {}", path.display()))
}

/// Takes the mount off at the end, whatever the end was.
struct Unmount(Option<Mounted>);

impl Drop for Unmount {
    fn drop(&mut self) {
        if let Some(m) = &self.0 {
            let _ = mountpoint::detach_if_there(m);
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(work).doing(|| format!("starting the thread {name}"))
}

/// Mounts, and shakes hands with the kernel.
fn attach(
    fuse: Fuse,
    path: &Path,
    options: &Options,
    threads: usize,
    source: &str,
) -> io::Result<Session<Fuse>> {
    let config = config(options, threads, source);
    match mountpoint::mount_as_root(path, source, options.allow_other, options.noexec) {
        Ok(device) => Session::from_fd(fuse, device, config.acl, config).inspect_err(|_| {
            let _ = mountpoint::detach(path);
        }),
        // An ordinary user, or root without the capability: fuser asks fusermount3.
        Err(rustix::io::Errno::PERM) => Session::new(fuse, path, &config),
        Err(e) => Err(e.into()),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many threads answer.
fn threads(options: &Options) -> usize {
    options.threads.unwrap_or_else(cores).clamp(THREADS_MIN, THREADS_MAX)
}

fn config(options: &Options, threads: usize, source: &str) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        // fusermount3 splits at commas, but for those behind a backslash.
        MountOption::FSName(source.replace('\\', "\\\\").replace(',', "\\,")),
        MountOption::Subtype(NAME.into()),
        // Else each read would make the kernel ask for the attributes again, for the atime.
        MountOption::RO,
        // Old set-user-id programs live on in snapshots, with all their holes.
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    if options.noexec {
        config.mount_options.push(MountOption::NoExec);
    }
    if options.allow_other {
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config
}

fn refused(path: &Path, e: io::Error) -> Error {
    let doing = format!("mounting on {}", path.display());
    match e.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Error::io(doing, e)
            .hint("this kernel does not enforce ACLs on FUSE: mount without --allow-other, or use Linux 4.9 or newer"),
        _ if e.to_string().contains("Permission denied") || e.to_string().contains("not permitted") => {
            Error::with_source(Fault::Denied, doing, e)
                .hint("the mountpoint must be yours and writable to you; in a container, mounting must be permitted")
        }
        // What fusermount3 said ends in a newline.
        None => Error::with_source(Fault::Io, doing, io::Error::other(e.to_string().trim().to_string())),
        Some(_) => Error::io(doing, e),
    }
}

/// The only thread that notifies. It holds no lock of ours meanwhile: the kernel may wait for requests that
/// are being answered before it takes a notification.
fn tell_kernel(
    view: &View,
    notifier: &Notifier,
    mut eviction: Eviction,
    told: &Receiver<Notice>,
    crowded: &Receiver<Notice>,
) {
    loop {
        let notice = crossbeam_channel::select! {
            recv(told) -> n => n,
            recv(crowded) -> n => n,
        };
        match notice {
            // What fails here the kernel does not hold; or the mount is gone, and the loop ends.
            Ok(Notice::Changed(changes)) => {
                for name in &changes.names {
                    let _ = notifier.inval_entry(INodeNo(ROOT), OsStr::from_bytes(name));
                }
                // What the kernel keeps of listings; the names in those other than the root's hold for a second.
                for folder in view.nodes.made() {
                    let _ = notifier.inval_inode(INodeNo(folder), 0, 0);
                }
            }
            Ok(Notice::Crowded) => eviction.crowded(&view.nodes),
            Err(_) => return,
        }
    }
}

/// Hands files to the kernel that nobody has asked for yet.
fn push_files(view: &View, notifier: &Notifier, owed: &Receiver<Due>) {
    while let Ok(due) = owed.recv() {
        // What the kernel does not take it will ask for; or the mount is gone, and the loop ends.
        view.push(&due, &mut |ino, bytes| notifier.store(INodeNo(ino), 0, bytes).is_ok());
    }
}

fn look_for_snapshots(
    view: &View,
    list: &List,
    every: Duration,
    tell: &Sender<Notice>,
    stopped: &Receiver<()>,
) {
    let mut away = false;
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        match list(view.lost()) {
            Ok(Listed { shown, found_again }) => {
                if std::mem::take(&mut away) || found_again {
                    view.over("the repository can be read again");
                }
                if let Some(changes) = view.refresh(shown)
                    && tell.send(Notice::Changed(changes)).is_err()
                {
                    return;
                }
            }
            // What was listed before stays, and so does the mount: whoever mirrors it must not see it empty.
            Err(e) if !away => {
                away = true;
                view.warn(format!("looking for new snapshots: {}", e.chain()));
            }
            Err(_) => {}
        }
    }
}
