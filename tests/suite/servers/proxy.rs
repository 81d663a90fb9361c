//! A proxy before a server, that makes it slow, flaky, forgetful or absent, as it is told while it runs, and counts what it is
//! asked. It speaks HTTP/1.1 ([`Proxy::http`]: S3 and WebDAV; all headers stay as they are, as signatures cover them), or passes
//! bytes on ([`Proxy::tcp`]: SFTP).
//!
//! A model of a far server, not a far server: a new connection costs a round trip, each request another, and bandwidth is
//! shared by all. Windows of TCP do not grow slowly, and nothing is lost on the way.

mod message;

use message::{Body, PIECE, copy_body, is_list, read_head, refusal};
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces that may be on their way in one direction of a connection of [`Proxy::tcp`]: 32 MiB, so that a long way does not become a
/// narrow one.
const UNDER_WAY: usize = 512;
/// How often what hangs looks whether it still shall.
const LOOK: Duration = Duration::from_millis(20);

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// The connection is reset before the server hears of it.
    Reset,
    /// The server does it, and the connection is reset before it answers.
    AnswerLost,
    /// This status instead of the server's, which hears nothing of it: 500, 503, 507, 429, 403.
    Status(u16),
}

/// What is wrong with the server or with the way to it. The default: nothing.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The way there and back.
    pub round_trip: Duration,
    /// Bytes a second in each direction.
    pub bandwidth: Option<u64>,
    /// Every n-th request, of all since the start, fails so.
    pub every: Option<(u64, Failure)>,
    /// All requests fail so.
    pub all: Option<Failure>,
    /// Requests of these methods fail so: a server that forbids to delete, say.
    pub methods: Vec<(&'static str, Failure)>,
    /// Puts whose body is longer are cut off after so many bytes of it: that many of them, counting down.
    pub cut_puts: Option<(u64, u32)>,
    /// Each connection of [`Proxy::tcp`] is cut after about so many bytes in both directions: some after few, some after many.
    pub cut_about: Option<u64>,
    /// Lists of S3 are as they were so long ago; those of a prefix that was never listed before are of today.
    pub late_lists: Duration,
    /// Requests are taken and never answered; when this ends their connections do.
    pub hangs: bool,
    /// Connections are reset at once.
    pub is_down: bool,
}

/// What the server was asked so far.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Requests, failed ones too, by method: `GET`, `PUT` and so on, lists of S3 as `LIST`.
    pub by_method: BTreeMap<String, u64>,
    /// Requests that were made to fail.
    pub failed: u64,
    /// Connections.
    pub connections: u64,
    /// Bytes of bodies from clients to the server.
    pub sent: u64,
    /// Bytes of bodies from the server to clients.
    pub received: u64,
    /// The request lines, if [`Proxy::keep_lines`] was called.
    pub lines: Vec<String>,
}

impl Asked {
    /// Requests of all methods.
    pub fn requests(&self) -> u64 {
        self.by_method.values().sum()
    }
}

/// An answer to a list, with the time when it was true.
type Old = (Instant, Vec<u8>);

struct Shared {
    server: SocketAddr,
    plan: Mutex<Plan>,
    asked: Mutex<Asked>,
    keeps_lines: AtomicBool,
    lists: Mutex<BTreeMap<String, Vec<Old>>>,
    /// When the line is free again: to the server, and from it.
    lines: [Mutex<Option<Instant>>; 2],
    connections: Mutex<Vec<Weak<TcpStream>>>,
    is_over: AtomicBool,
}

/// A connection. Whoever else knows of it does not keep it open: what is reset is so when it is closed.
#[derive(Clone)]
struct Wire(Arc<TcpStream>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running proxy; it ends with the value, and cuts all that went through it.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Before a server that speaks HTTP without TLS.
    pub fn http(server: SocketAddr) -> Self {
        Self::start(server, |shared, client| drop(serve_http(shared, client)))
    }

    /// Before any server. Of the plan, what is about requests means nothing here; a put is what a connection sends.
    pub fn tcp(server: SocketAddr) -> Self {
        Self::start(server, |shared, client| drop(serve_tcp(shared, client)))
    }

    fn start(server: SocketAddr, serve: fn(&Arc<Shared>, Wire)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            server,
            plan: Mutex::default(),
            asked: Mutex::default(),
            keeps_lines: AtomicBool::new(false),
            lists: Mutex::default(),
            lines: Default::default(),
            connections: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let proxy = Self { port, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                lock(&shared.asked).connections += 1;
                if shared.plan().is_down {
                    reset(&client);
                    continue;
                }
                let Ok(client) = shared.wire(client) else { continue };
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    // There and back, before a client may say anything.
                    thread::sleep(shared.plan().round_trip);
                    serve(&shared, client);
                });
            }
        });
        proxy
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes what is wrong from now on, for connections that are open as well; down means that those are cut.
    pub fn set(&self, change: impl FnOnce(&mut Plan)) {
        let is_down = {
            let mut plan = lock(&self.shared.plan);
            change(&mut plan);
            plan.is_down
        };
        if is_down {
            self.cut_all();
        }
    }

    /// Cuts all open connections.
    pub fn cut_all(&self) {
        for connection in lock(&self.shared.connections).drain(..).filter_map(|c| c.upgrade()) {
            reset(&connection);
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// What was asked since the start, or since the last [`Proxy::forget_asked`].
    pub fn asked(&self) -> Asked {
        lock(&self.shared.asked).clone()
    }

    /// Counts from 0 again.
    pub fn forget_asked(&self) -> Asked {
        std::mem::take(&mut *lock(&self.shared.asked))
    }

    /// From now on, keeps the line of each request.
    pub fn keep_lines(&self) {
        self.shared.keeps_lines.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut_all();
        // Wakes who listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn plan(&self) -> Plan {
        lock(&self.plan).clone()
    }

    fn wire(&self, stream: TcpStream) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        let stream = Arc::new(stream);
        let mut connections = lock(&self.connections);
        connections.retain(|c| c.strong_count() > 0);
        connections.push(Arc::downgrade(&stream));
        Ok(Wire(stream))
    }

    fn connect(&self) -> io::Result<Wire> {
        self.wire(TcpStream::connect(self.server)?)
    }

    /// Waits half a round trip.
    fn travel(&self) {
        thread::sleep(self.plan().round_trip / 2);
    }

    /// Waits until `len` more bytes have passed the line: 0 to the server, 1 from it.
    fn pass(&self, direction: usize, len: usize) {
        let Some(bandwidth) = self.plan().bandwidth else { return };
        let now = Instant::now();
        let until = {
            let mut free = lock(&self.lines[direction]);
            let start = free.unwrap_or(now).max(now);
            let end = start + Duration::from_secs_f64(len as f64 / bandwidth.max(1) as f64);
            *free = Some(end);
            end
        };
        thread::sleep(until.saturating_duration_since(now));
    }

    /// Waits while the server hangs; whether it did.
    fn hang(&self) -> bool {
        let hung = self.plan().hangs;
        while self.plan().hangs && !self.is_over.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
        hung
    }

    /// Counts a request; how it shall fail, if it shall.
    fn failure(&self, method: &str, line: &str) -> Option<Failure> {
        let plan = self.plan();
        let mut asked = lock(&self.asked);
        *asked.by_method.entry(method.to_owned()).or_default() += 1;
        if self.keeps_lines.load(Ordering::SeqCst) {
            asked.lines.push(line.to_owned());
        }
        let of_method = plan.methods.iter().find(|(m, _)| *m == method).map(|(_, f)| *f);
        let nth = plan.every.filter(|(n, _)| asked.requests().is_multiple_of(*n)).map(|(_, f)| f);
        let failure = plan.all.or(of_method).or(nth);
        asked.failed += u64::from(failure.is_some());
        failure
    }

    /// After how many bytes of its body this put is to be cut off.
    fn cut(&self, len: u64) -> Option<u64> {
        let mut plan = lock(&self.plan);
        let (after, times) = plan.cut_puts?;
        if len <= after || times == 0 {
            return None;
        }
        plan.cut_puts = Some((after, times - 1));
        drop(plan);
        lock(&self.asked).failed += 1;
        Some(after)
    }

    /// The answer to a list as it was [`Plan::late_lists`] ago, given what it is now.
    fn list_of_old(&self, line: &str, now: &[u8]) -> Vec<u8> {
        let late = self.plan().late_lists;
        let mut lists = lock(&self.lists);
        let known = lists.entry(line.to_owned()).or_default();
        known.push((Instant::now(), now.to_vec()));
        let old = known.iter().rev().find(|(when, _)| when.elapsed() >= late);
        old.or(known.first()).map_or_else(|| now.to_vec(), |(_, answer)| answer.clone())
    }
}

/// What is sent last is a reset, not an end: as by a server that died.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: an open socket, and a value of the size that is named.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
}

fn serve_http(shared: &Arc<Shared>, client: Wire) -> io::Result<()> {
    let mut from_client = BufReader::with_capacity(PIECE, client.clone());
    let mut to_client = client;
    let mut server: Option<BufReader<Wire>> = None;
    while let Some(head) = read_head(&mut from_client, false)? {
        let mut words = head.first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let lists = is_list(method, target);
        let failure = shared.failure(if lists { "LIST" } else { method }, &head.first);
        shared.travel();
        if shared.hang() || shared.plan().is_down || failure == Some(Failure::Reset) {
            reset(&to_client.0);
            return Ok(());
        }
        if head.expects_continue {
            to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if let Some(Failure::Status(status)) = failure {
            copy_body(&mut from_client, &mut io::sink(), head.body, &mut |_| Ok(()))?;
            shared.travel();
            to_client.write_all(&refusal(status, method))?;
            continue;
        }
        let mut upstream = match server.take().filter(is_open) {
            Some(upstream) => upstream,
            None => {
                let stream = shared.connect().inspect_err(|_| reset(&to_client.0))?;
                BufReader::with_capacity(PIECE, stream)
            }
        };
        let cut = match head.body {
            Body::Length(len) if method == "PUT" => shared.cut(len),
            _ => None,
        };
        let mut to_server = upstream.get_ref().clone();
        to_server.write_all(&head.bytes)?;
        let mut passed = 0;
        let sent = copy_body(&mut from_client, &mut to_server, head.body, &mut |piece| {
            shared.pass(0, piece.len());
            lock(&shared.asked).sent += piece.len() as u64;
            passed += piece.len() as u64;
            if cut.is_some_and(|after| passed >= after) {
                Err(io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(())
            }
        });
        let answered = sent.and_then(|()| {
            answer(shared, &mut upstream, &mut to_client, &head.first, lists, failure.is_some())
        });
        match answered {
            Ok(true) if !head.closes => server = Some(upstream),
            Ok(_) => return Ok(()),
            Err(_) => {
                // Half a put, or a server that died: both ends hear of it at once.
                reset(&to_client.0);
                reset(&to_server.0);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Passes the server's answer on, unless it is to be lost; whether both connections are good for another request.
fn answer(
    shared: &Shared,
    server: &mut BufReader<Wire>,
    to_client: &mut Wire,
    request: &str,
    lists: bool,
    is_lost: bool,
) -> io::Result<bool> {
    let head = loop {
        let head = read_head(server, true)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // We said "100 Continue" ourselves.
        if !head.first.contains(" 100 ") {
            break head;
        }
    };
    let has_none = request.starts_with("HEAD ")
        || [" 204 ", " 304 "].iter().any(|s| format!("{} ", head.first).contains(s));
    let body = if has_none { Body::Length(0) } else { head.body };
    let stays_open = !head.closes && !matches!(body, Body::UntilEnd);
    if is_lost {
        copy_body(server, &mut io::sink(), body, &mut |_| Ok(()))?;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let mut hears = |piece: &[u8]| {
        shared.pass(1, piece.len());
        lock(&shared.asked).received += piece.len() as u64;
        Ok(())
    };
    if lists && !shared.plan().late_lists.is_zero() {
        let mut all = head.bytes.clone();
        copy_body(server, &mut all, body, &mut hears)?;
        shared.travel();
        to_client.write_all(&shared.list_of_old(request, &all))?;
        return Ok(stays_open);
    }
    shared.travel();
    to_client.write_all(&head.bytes)?;
    copy_body(server, to_client, body, &mut hears)?;
    Ok(stays_open)
}

/// Whether a server's connection is still good for a request.
fn is_open(server: &BufReader<Wire>) -> bool {
    let stream = &server.get_ref().0;
    let mut one = [0];
    let is_open = stream.set_nonblocking(true).is_ok()
        && matches!(stream.peek(&mut one), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
    is_open && stream.set_nonblocking(false).is_ok() && server.buffer().is_empty()
}

fn serve_tcp(shared: &Arc<Shared>, client: Wire) -> io::Result<()> {
    let server = shared.connect().inspect_err(|_| reset(&client.0))?;
    let back = (server.clone(), client.clone());
    let of_back = Arc::clone(shared);
    let carried = Arc::new(AtomicU64::new(0));
    let of_both = Arc::clone(&carried);
    let other = thread::spawn(move || carry(&of_back, back.0, back.1, 1, &of_both));
    carry(shared, client, server, 0, &carried);
    let _ = other.join();
    Ok(())
}

/// How many bytes a connection lives, where they live `about` so long: from 0.3 to 1.5 times that.
fn lifetime(about: u64) -> u64 {
    let chance = f64::from(u32::from_le_bytes(pastfs::clock::random_array())) / f64::from(u32::MAX);
    (about as f64 * (0.3 + 1.2 * chance)) as u64
}

/// Passes bytes on, half a round trip later; `carried` counts those of both directions.
fn carry(shared: &Arc<Shared>, mut from: Wire, mut to: Wire, direction: usize, carried: &AtomicU64) {
    let lives = shared.plan().cut_about.map(lifetime);
    let (send, receive) = sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let of_writer = Arc::clone(shared);
    let writer = thread::spawn(move || {
        for (read, bytes) in receive {
            of_writer.pass(direction, bytes.len());
            thread::sleep((read + of_writer.plan().round_trip / 2).saturating_duration_since(Instant::now()));
            if of_writer.hang() || to.write_all(&bytes).is_err() {
                reset(&to.0);
                let _ = to.0.shutdown(Shutdown::Both);
                return;
            }
            let mut asked = lock(&of_writer.asked);
            let count = if direction == 0 { &mut asked.sent } else { &mut asked.received };
            *count += bytes.len() as u64;
        }
        let _ = to.0.shutdown(Shutdown::Write);
    });
    let mut passed = 0;
    loop {
        let mut piece = vec![0; PIECE];
        let n = from.read(&mut piece).unwrap_or(0);
        piece.truncate(n);
        if n == 0 || send.send((Instant::now(), piece)).is_err() {
            break;
        }
        passed += n as u64;
        let carried = carried.fetch_add(n as u64, Ordering::SeqCst) + n as u64;
        let is_worn = lives.is_some_and(|lives| carried > lives);
        if is_worn {
            lock(&shared.asked).failed += 1;
        }
        if is_worn || direction == 0 && shared.cut(passed).is_some() {
            reset(&from.0);
            let _ = from.0.shutdown(Shutdown::Both);
        }
    }
    drop(send);
    let _ = writer.join();
}
