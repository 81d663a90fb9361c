//! HTTP as both of its users need it: one pool of connections, timeouts, limits of bandwidth, and failures with their
//! meaning.

use super::Limits;
use super::answer::Trouble;
use crate::fault::{Doing, Error, Fault, Result};
use crate::storage::place::is_loopback;
use crate::storage::throttle::Throttle;
use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use opendal::{Buffer, HttpBody, HttpTransport};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a request may stand still: no byte passes, and no answer comes.
const NO_PROGRESS: Duration = Duration::from_secs(60);
/// How long a connection that nobody uses is kept; servers close theirs after 5 (Apache) to 75 seconds (nginx).
const IDLE: Duration = Duration::from_secs(30);
/// What is handed to a connection at a time: the grain of limits and of the watch over progress.
const PIECE: usize = 64 << 10;
/// The address of a cloud's metadata, where keys are looked for last; elsewhere nobody answers there.
const METADATA_HOST: &str = "169.254.169.254";
/// How long that may take in all.
const METADATA: Duration = Duration::from_secs(2);

/// A pool of connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wire {
    client: reqwest::Client,
    limits: Arc<Limits>,
}

impl Wire {
    /// `ca` names a file of certificates (PEM) that are trusted beside those of the system.
    pub(super) fn new(limits: Arc<Limits>, ca: Option<&Path>) -> Result<Self> {
        // The only provider that is compiled in; another thread may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("pastfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            // A signature holds for one place, and a password is for one server: who moved says so.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = ca {
            let doing = || format!("reading the certificates in {}", path.display());
            let text = std::fs::read(path).doing(doing)?;
            let found = reqwest::Certificate::from_pem_bundle(&text)
                .map_err(|e| Error::with_source(Fault::Misuse, doing(), e))?;
            if found.is_empty() {
                return Err(Error::misuse(format!("{} holds no certificate in PEM form", path.display())));
            }
            client = client.tls_certs_merge(found);
        }
        let client = client
            .build()
            .map_err(|e| Error::with_source(Fault::Io, "setting up HTTP", super::answer::innermost(&e)))?;
        Ok(Self { client, limits })
    }

    /// Sends a request and gives the beginning of the answer, whatever its status is.
    pub(super) async fn send(
        &self,
        request: Request<Buffer>,
    ) -> std::result::Result<reqwest::Response, Trouble> {
        let (parts, body) = request.into_parts();
        let url = reqwest::Url::parse(&parts.uri.to_string())
            .map_err(|e| Trouble::new(Fault::Misuse, format!("{} is no URL: {e}", parts.uri)))?;
        let is_metadata = url.host_str() == Some(METADATA_HOST);
        let pulse = Pulse::new();
        let mut request = self.client.request(parts.method, url).headers(parts.headers);
        if !body.is_empty() {
            let outgoing = Outgoing {
                body,
                piece: Bytes::new(),
                limits: self.limits.clone(),
                wait: None,
                pulse: pulse.clone(),
            };
            request = request.body(reqwest::Body::wrap(outgoing));
        }
        let sent = async { request.send().await.map_err(|e| Trouble::of_http(&e)) };
        if is_metadata {
            let late = |_| Trouble::new(Fault::Denied, "this machine has no keys of its own");
            return tokio::time::timeout(METADATA, sent).await.map_err(late)?;
        }
        pulse.watch(sent).await?
    }

    /// The bytes of an answer as they come, no faster than the limit.
    pub(super) fn incoming(&self, response: reqwest::Response) -> Incoming {
        Incoming {
            stream: Box::pin(response.bytes_stream()),
            limits: self.limits.clone(),
            wait: None,
            due: Box::pin(tokio::time::sleep(NO_PROGRESS)),
        }
    }
}

/// For opendal.
impl HttpTransport for Wire {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let uri = request.uri().clone();
        let is_batch_delete = uri.query().is_some_and(|q| q == "delete" || q.starts_with("delete="));
        // A HEAD tells the length of what it does not send.
        let is_head = request.method() == http::Method::HEAD;
        let mut answer = self.send(request).await.map_err(carried)?;
        let length = answer.content_length().filter(|_| !is_head);
        let mut response = Response::builder().status(answer.status()).extension(uri);
        if let Some(headers) = response.headers_mut() {
            std::mem::swap(headers, answer.headers_mut());
        }
        let body = match is_batch_delete {
            true => without_empty_versions(self.incoming(answer)).await.map_err(carried)?,
            false => HttpBody::new(self.incoming(answer), length),
        };
        response.body(body).map_err(|e| opendal::Error::new(opendal::ErrorKind::Unexpected, e.to_string()))
    }
}

/// What became of objects that one request deletes, as opendal 0.59 understands it: by an empty version, which Ceph tells of
/// objects without versions, it would not know an object that could not be deleted, and take it for deleted.
async fn without_empty_versions(mut pieces: Incoming) -> std::result::Result<HttpBody, Trouble> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.replace("<VersionId></VersionId>", "").replace("<VersionId/>", "");
    Ok(HttpBody::new(futures_util::stream::iter([Ok(Buffer::from(text))]), None))
}

/// A failure in the form that opendal passes on.
fn carried(trouble: Trouble) -> opendal::Error {
    let temporary = trouble.fault == Fault::Busy;
    opendal::Error::new(opendal::ErrorKind::Unexpected, trouble.text.clone())
        .with_temporary(temporary)
        .set_source(trouble)
}

/// Whether secrets and names of files may go there.
///
/// # Errors
/// `Denied` for plain HTTP to another machine, unless that is `allowed`.
pub(super) fn check_plain(tls: bool, host: &str, allowed: bool) -> Result<()> {
    if tls || allowed || is_loopback(host) {
        return Ok(());
    }
    Err(Error::new(Fault::Denied, format!("{host} is another machine, and is to be spoken to without TLS"))
        .hint(
            "what is stored is sealed, but passwords would be seen on the way: use https, or --insecure-http",
        ))
}

/// When something last went on.
#[derive(Clone)]
struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It goes on, or will at that time.
    fn beat(&self, at: Instant) {
        *self.0.lock() = at;
    }

    /// Waits for `work`, and gives up where it stands still.
    async fn watch<T>(&self, work: impl Future<Output = T>) -> std::result::Result<T, Trouble> {
        let mut work = std::pin::pin!(work);
        loop {
            let due = *self.0.lock() + NO_PROGRESS;
            match tokio::time::timeout_at(due, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if *self.0.lock() + NO_PROGRESS > Instant::now() => {}
                Err(_) => return Err(stalled()),
            }
        }
    }
}

fn stalled() -> Trouble {
    Trouble::new(Fault::Busy, format!("nothing came for {} seconds", NO_PROGRESS.as_secs()))
}

/// A wait for the limit of bandwidth; `None` where nobody has to.
type Wait = Option<Pin<Box<Sleep>>>;

fn wait_for(throttle: &Throttle, bytes: usize) -> Wait {
    let wait = throttle.take(bytes);
    (!wait.is_zero()).then(|| Box::pin(tokio::time::sleep(wait)))
}

/// The body of a request.
struct Outgoing {
    body: Buffer,
    /// What is left of the buffer that was begun.
    piece: Bytes,
    limits: Arc<Limits>,
    wait: Wait,
    pulse: Pulse,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        if self.piece.is_empty() {
            self.piece = self.body.next().unwrap_or_default();
        }
        if self.piece.is_empty() {
            return Poll::Ready(None);
        }
        let length = PIECE.min(self.piece.len());
        let piece = self.piece.split_to(length);
        // This one goes now, and the next one when it is paid for.
        self.wait = wait_for(&self.limits.up, piece.len());
        let next = self.wait.as_ref().map_or_else(Instant::now, |wait| wait.deadline());
        self.pulse.beat(next.max(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.piece.len() + self.body.len()) as u64)
    }
}

/// The body of an answer.
pub(super) struct Incoming {
    stream: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send + Sync>>,
    limits: Arc<Limits>,
    wait: Wait,
    due: Pin<Box<Sleep>>,
}

impl Incoming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<std::result::Result<Bytes, Trouble>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(context));
                self.wait = None;
                self.due.as_mut().reset(Instant::now() + NO_PROGRESS);
            }
            match self.stream.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    self.wait = wait_for(&self.limits.down, bytes.len());
                    self.due.as_mut().reset(Instant::now() + NO_PROGRESS);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(Trouble::of_http(&e)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(self.due.as_mut().poll(context));
                    return Poll::Ready(Some(Err(stalled())));
                }
            }
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<std::result::Result<Bytes, Trouble>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }
}

impl Stream for Incoming {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context).map(|next| next.map(|bytes| bytes.map(Buffer::from).map_err(carried)))
    }
}
