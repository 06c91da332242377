//! The gateway on a socket: TLS, HTTP/1.1 and HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use kelson_wire::kube::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pki::ServerTls;
use crate::status::Failure;
use crate::{Error, Gateway, User};

/// Connections at a time; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a client may take for the TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take for the headers of a request.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1_000;
/// HTTP/2 flow-control windows: one response of a few thousand objects fits.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Pause after a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

impl Gateway {
    /// Serves the API on `listener` until `shutdown`. Open requests then get
    /// [`Config::shutdown_grace`](crate::Config::shutdown_grace) to finish; watches end at once.
    ///
    /// # Errors
    /// None that one connection could cause; those are logged.
    pub async fn serve(self, listener: TcpListener, tls: ServerTls, shutdown: CancellationToken) -> Result<(), Error> {
        let acceptor = TlsAcceptor::from(tls.config.clone());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        // Cut without grace, once that is over.
        let cut = CancellationToken::new();
        loop {
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place,
                () = shutdown.cancelled() => break,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let connection = Connection {
                gateway: self.clone(),
                acceptor: acceptor.clone(),
                tls: tls.clone(),
                shutdown: shutdown.clone(),
            };
            let cut = cut.clone();
            connections.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = connection.run(stream) => {}
                    () = cut.cancelled() => {}
                }
            });
        }
        connections.close();
        if tokio::time::timeout(self.0.config.shutdown_grace, connections.wait()).await.is_err() {
            cut.cancel();
            connections.wait().await;
        }
        Ok(())
    }

    /// Answers a request whose body is still on its way.
    async fn receive(&self, user: &User, closing: &CancellationToken, request: Request<Incoming>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let limit = self.0.config.max_body;
        let read = Limited::new(body, limit).collect();
        let body = match tokio::time::timeout(self.0.config.request_timeout, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Failure::too_large_body(limit).response(),
            Ok(Err(error)) => return Failure::bad_request(format!("the body could not be read: {error}")).response(),
            Err(_) => return Failure::timeout().response(),
        };
        parts.extensions.insert(closing.clone());
        self.handle(user, Request::from_parts(parts, body)).await
    }
}

struct Connection {
    gateway: Gateway,
    acceptor: TlsAcceptor,
    tls: ServerTls,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Small answers must not wait for more.
        let _ = stream.set_nodelay(true);
        let handshake = self.acceptor.accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!("TLS handshake timed out");
                return;
            }
        };
        // One decision for the life of the connection: the certificate cannot change.
        let user = Arc::new(self.tls.user(stream.get_ref().1.peer_certificates()));
        let gateway = self.gateway.clone();
        let closing = self.shutdown.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (gateway, user, closing) = (gateway.clone(), user.clone(), closing.clone());
            async move { Ok::<_, std::convert::Infallible>(gateway.receive(&user, &closing, request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Some(Duration::from_secs(30)));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
