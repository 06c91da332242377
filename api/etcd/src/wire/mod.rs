//! The client port on the wire. What is spoken is told by the first bytes: HTTP/1 is hyper's; HTTP/2 is served here, on
//! `h2` itself. The calls that come by the thousand (KV) are decoded, answered and encoded in the task of their connection;
//! all others get a task of their own and go to tonic's services, the gateway, or plain HTTP.

mod body;
#[cfg(any(test, feature = "fuzz"))]
mod check;
mod connection;
mod head;
mod keepalive;
mod message;
mod piece;
mod preface;
mod pump;
mod reply;
mod socket;
mod unary;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub(crate) use body::Body;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use check::check;
use connection::{Connection, End};
use keepalive::KeepAlive;
use piece::Held;
use preface::Spoken;

use crate::call::Source;
use crate::context::Context;
use crate::listener::Serves;
use crate::options::ServerOptions;
use crate::router::Router;
use crate::tls::PeerCertificates;

/// HTTP/2 flow control windows in bytes. The default of 64 KiB makes a client with many small requests, or a few large
/// ones, wait for window updates.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Answers that may wait in a stream's buffer before its producer has to.
const SEND_BUFFER: usize = 1 << 20;
const MAX_FRAME: u32 = 64 << 10;
/// Bytes of a request's headers, as HTTP/2 counts them. One with more is refused, whatever the number of its frames.
const MAX_HEADERS: u32 = 16 << 10;

/// Streams that a client may have opened and reset before they were looked at (HTTP/2 rapid reset), and that were reset
/// for what the client did wrong. One more ends the connection.
const PENDING_RESETS: usize = 128;
const LOCAL_RESETS: usize = 1024;

/// Bound on the head of an HTTP/1 request.
const HEAD: Duration = Duration::from_secs(10);

/// What all connections of a server have in common.
pub(crate) struct Wire {
    context: Arc<Context>,
    http1: http1::Builder,
    http2: h2::server::Builder,
    /// Cancelled when what still lasts is to be cut off.
    pub(crate) cut: CancellationToken,
}

/// What all streams of a connection have in common.
struct Shared {
    router: Arc<Router>,
    serves: Serves,
    peer: Option<PeerCertificates>,
    held: Arc<Held>,
}

impl Wire {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let (http1, http2) = (http1(), http2(&context.options));
        Self { context, http1, http2, cut: CancellationToken::new() }
    }

    /// Serves a connection until it ends.
    pub(crate) async fn speak<S>(
        &self,
        mut stream: S,
        router: Arc<Router>,
        serves: Serves,
        peer: Option<PeerCertificates>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut begun = BytesMut::new();
        let spoken = tokio::select! {
            spoken = preface::read(&mut stream, &mut begun) => spoken,
            () = self.context.shutdown.cancelled() => return,
        };
        match spoken {
            Ok(Some(spoken)) => {
                let shared = Arc::new(Shared { router, serves, peer, held: Arc::default() });
                tokio::select! {
                    () = async {
                        match spoken {
                            Spoken::Http1 => self.speak_http1(stream, begun, shared).await,
                            Spoken::Http2 => self.speak_http2(stream, begun, shared).await,
                        }
                    } => {}
                    () = self.cut.cancelled() => {}
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!("a connection ended: {error}"),
        }
    }

    async fn speak_http2<S>(&self, stream: S, begun: BytesMut, shared: Arc<Shared>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (socket, outlet) = socket::pair(preface::Begun::new(begun.freeze(), stream));
        let mut handshake = pin!(self.http2.handshake(socket));
        // The server's settings go out though the client's have not come.
        let shaken = std::future::poll_fn(|task| {
            let shaken = handshake.as_mut().poll(task).map_err(|error| error.to_string());
            match outlet.send(task) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
                _ => shaken,
            }
        });
        let mut http = tokio::select! {
            shaken = shaken => match shaken {
                Ok(http) => http,
                Err(error) => return tracing::debug!("a connection ended: {error}"),
            },
            () = self.context.shutdown.cancelled() => return,
        };
        let options = &self.context.options;
        let keep_alive = options.keep_alive.zip(http.ping_pong());
        let keep_alive =
            keep_alive.map(|(interval, pings)| KeepAlive::new(pings, interval, options.keep_alive_timeout));
        match Connection::new(shared, http, outlet, keep_alive).await {
            End::Done => {}
            // Clients that go away without a word are no fault of ours.
            End::Http(error) => tracing::debug!("a connection ended: {error}"),
            End::Io(error) => tracing::debug!("a connection ended: {error}"),
            End::Lost => tracing::debug!("a connection ended: its client did not answer"),
        }
    }

    async fn speak_http1<S>(&self, stream: S, begun: BytesMut, shared: Arc<Shared>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let shared = shared.clone();
            if let Some(peer) = &shared.peer {
                request.extensions_mut().insert(peer.clone());
            }
            let answer = async move { shared.router.route(shared.serves, request.map(Source::Http1)).await };
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let stream = preface::Begun::new(begun.freeze(), stream);
        let mut connection = pin!(self.http1.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.context.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        }
    }
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
}

fn http2(options: &ServerOptions) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(options.max_streams_per_connection)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS));
    builder
}
