//! Stores on other machines: S3 and WebDAV over HTTP, and SFTP over ssh.
//!
//! This is the only room that knows of an async runtime, of HTTP and of opendal: behind its door everything is a
//! [`Store`] whose methods block. One runtime of a few threads moves the bytes of all of them.

mod answer;
mod aws;
mod gate;
mod multistatus;
mod s3;
mod session;
mod sftp;
mod webdav;
mod wire;

use super::place::Place;
use super::retry::Retry;
use super::throttle::Throttle;
use super::{Listed, Options, Store};
use crate::fault::{Doing, Error, Fault, Result};
use answer::Answered;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Threads that move bytes between sockets and memory; TLS is the most of their work.
const THREADS: usize = 2;
/// Requests of one store at a time: enough to fill a line of 1 Gbit/s and 50 ms with small objects, and far below what
/// servers refuse.
const REQUESTS: usize = 32;
/// Folders that one list asks for at a time, and objects that one call deletes, where each takes a request.
const AT_A_TIME: usize = 16;

/// All objects of a folder and of those below it, where a request lists one folder: [`AT_A_TIME`] of them at a time. `one`
/// gives the objects of a folder, and the folders in it.
async fn list_below<F>(prefix: &str, one: impl Fn(String) -> F) -> Answered<Vec<Listed>>
where
    F: Future<Output = Answered<(Vec<Listed>, Vec<String>)>>,
{
    let (mut found, mut waiting) = (Vec::new(), vec![prefix.to_owned()]);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < AT_A_TIME
            && let Some(folder) = waiting.pop()
        {
            running.push(one(folder));
        }
        let Some(listed) = running.next().await else { return Ok(found) };
        let (more, inner) = listed?;
        found.extend(more);
        waiting.extend(inner);
    }
}

/// Tries of each request of a list that takes many: one for each folder, or each page. Of hundreds one nearly always fails where one
/// in ten does, and a list that began anew each time would never end.
const LIST_TRIES: u32 = 4;
/// Wait before the second of them; doubled before each one after it. Whoever is away for longer is waited for by `retry`.
const LIST_PAUSE: Duration = Duration::from_millis(200);

/// Bytes a second in each direction, for all requests of a store together.
#[derive(Debug)]
struct Limits {
    up: Throttle,
    down: Throttle,
}

impl Limits {
    fn new(options: &Options) -> Arc<Self> {
        let (up, down) = (Throttle::new(options.limit_upload), Throttle::new(options.limit_download));
        Arc::new(Self { up, down })
    }
}

/// Opens the store at `place`, which is no local one. Nothing is asked of the server yet.
///
/// # Errors
/// `Misuse` where an option is missing or makes no sense; `Denied` for plain HTTP to another machine.
pub(super) fn open(place: &Place, options: &Options) -> Result<Arc<dyn Store>> {
    Ok(match place {
        Place::S3(place) => finish(s3::S3::open(place, options)?, options),
        Place::WebDav(place) => finish(webdav::WebDav::open(place, options)?, options),
        Place::Sftp(place) => finish(sftp::Sftp::open(place, options)?, options),
        Place::Local(path) => {
            return Err(Error::bug(format!("{} is no place on another machine", path.display())));
        }
    })
}

/// What each of them needs: few enough requests at a time, and another try where one may help. Who waits before the next
/// try holds nobody else up.
fn finish<S: Store + 'static>(store: S, options: &Options) -> Arc<dyn Store> {
    let gated = gate::Gate::new(store, REQUESTS);
    Arc::new(Retry::new(gated, options.patience, options.observer.clone()))
}

/// The runtime, made for the first request: a process goes into the background after it has opened its store, and must
/// have one thread then.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("network")
        .enable_all()
        .build()
        .doing(|| "starting the threads for the network")?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// One request of many that make a list: tried again where that may help.
async fn again<T>(request: impl AsyncFn() -> Answered<T>) -> Answered<T> {
    let mut pause = LIST_PAUSE;
    for _ in 1..LIST_TRIES {
        match request().await {
            Err(trouble) if trouble.fault == Fault::Busy => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    request().await
}

/// Waits for what another machine does.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(work)
}
