//! The client port: gRPC and plain HTTP on one listener, with and without TLS.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use kelson_raft::Node;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::background;
use crate::context::Context;
use crate::options::ServerOptions;
use crate::router::Router;

/// HTTP/2 flow control windows in bytes. The default of 64 KiB makes a client with many small requests, or a few large
/// ones, wait for window updates.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Answers that may wait in a stream's buffer before its producer has to.
const SEND_BUFFER: usize = 1 << 20;
const MAX_FRAME: u32 = 64 << 10;

/// A connection that says nothing is asked whether it lives, and cut off without an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bound on a TLS handshake, and on the head of an HTTP/1 request.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the usual cause is a lack of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So many failures in a row mean that the listener is dead.
const ACCEPT_FAILURES: u32 = 200;

/// Serves etcd's API on `listener` until `shutdown` is cancelled.
///
/// Then watches and other open streams are ended at once, requests under way are answered within
/// [`ServerOptions::shutdown_grace`], and what still lasts is cut off. The node is left running.
///
/// # Errors
/// [`Error::Accept`] where the listener fails for good.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let connections = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let server = Arc::new(Server {
        tls: options.tls.as_deref().map(acceptor),
        http: http(&options),
        grace: options.shutdown_grace,
        cut: CancellationToken::new(),
        context: Arc::new(Context::new(node, options, shutdown.clone())),
    });
    let router = Arc::new(Router::new(server.context.clone()));
    let tasks = TaskTracker::new();
    tasks.spawn(background::compact(server.context.clone()));
    let end = accept(&listener, &shutdown, &connections, |stream, permit| {
        let (server, router) = (server.clone(), router.clone());
        tasks.spawn(async move {
            server.connection(stream, router).await;
            drop(permit);
        });
    })
    .await;
    drop(listener);
    // A listener that failed ends the server as a shutdown does.
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(server.grace, tasks.wait()).await.is_err() {
        tracing::warn!("cutting off {} connections that did not end in time", tasks.len());
        server.cut.cancel();
        tasks.wait().await;
    }
    end
}

struct Server {
    context: Arc<Context>,
    http: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    grace: Duration,
    /// Cancelled when the grace is over.
    cut: CancellationToken,
}

fn acceptor(config: &rustls::ServerConfig) -> TlsAcceptor {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn http(options: &ServerOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(options.max_streams_per_connection)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// Hands over connections until the shutdown.
async fn accept(
    listener: &TcpListener,
    shutdown: &CancellationToken,
    connections: &Arc<Semaphore>,
    mut take: impl FnMut(TcpStream, tokio::sync::OwnedSemaphorePermit),
) -> Result<(), Error> {
    let mut failures = 0;
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return Ok(()) };
        match accepted {
            Ok((stream, _)) => {
                failures = 0;
                // Without it small answers wait for acknowledgements; a connection that refuses is as good as gone.
                if stream.set_nodelay(true).is_ok() {
                    take(stream, permit);
                }
            }
            Err(error) => {
                failures += 1;
                if failures > ACCEPT_FAILURES {
                    return Err(Error::Accept(error));
                }
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    async fn connection(&self, stream: TcpStream, router: Arc<Router>) {
        let counters = self.context.metrics.counters();
        counters.connections.fetch_add(1, Relaxed);
        match &self.tls {
            None => self.speak(stream, router).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(stream));
                tokio::select! {
                    () = self.context.shutdown.cancelled() => {}
                    done = handshake => match done {
                        Ok(Ok(stream)) => self.speak(stream, router).await,
                        Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            }
        }
        counters.connections.fetch_sub(1, Relaxed);
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Arc<Router>) {
        let service = service_fn(move |request: http::Request<Incoming>| {
            let router = router.clone();
            async move { Ok::<_, Infallible>(router.route(request).await) }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.context.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            // Clients that go away without a word are no fault of ours.
            tracing::debug!("a connection ended: {error}");
        }
    }
}
