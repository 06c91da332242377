//! The client port on the wire. What is spoken is told by the first bytes: HTTP/1 is hyper's; HTTP/2 is served here, frame
//! by frame. The calls that come by the thousand (KV) are decoded, answered and encoded on the spot; all others go to tonic's
//! services, the gateway, or plain HTTP. All streams of a connection are served by one task.

mod body;
mod calls;
#[cfg(any(test, feature = "fuzz"))]
mod check;
mod connection;
mod head;
mod heads;
mod keepalive;
mod message;
mod output;
mod preface;
mod receive;
mod reply;
mod request;
mod send;
mod stream;
mod task;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
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
use preface::Spoken;

use crate::call::Source;
use crate::context::Context;
use crate::listener::Serves;
use crate::router::Router;
use crate::tls::PeerCertificates;

/// HTTP/2 flow control windows in bytes. The default of 64 KiB makes a client with many small requests, or a few large
/// ones, wait for window updates.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest payload of a frame that is taken, and sent.
const MAX_FRAME: usize = 64 << 10;

/// Bytes of answers that wait on one connection until its client takes them; beyond it no more calls are begun.
const MAX_OWED: usize = 8 << 20;
/// Bytes of requests that are there in part on one connection; beyond it such requests are refused.
const MAX_PARTIAL: usize = 256 << 20;

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
    /// Cancelled when what still lasts is to be cut off.
    pub(crate) cut: CancellationToken,
}

/// What all streams of a connection have in common.
struct Shared {
    router: Arc<Router>,
    serves: Serves,
    peer: Option<PeerCertificates>,
}

impl Wire {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context, http1: http1(), cut: CancellationToken::new() }
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
            Ok(Some(Spoken::Member)) if serves == Serves::Peers => {
                self.context.node.accept(Box::new(preface::Begun::new(begun.freeze(), stream)));
            }
            Ok(Some(spoken)) => {
                let shared = Arc::new(Shared { router, serves, peer });
                tokio::select! {
                    () = async {
                        match spoken {
                            // Who speaks to the wrong port hears so in the way that most understand.
                            Spoken::Http1 | Spoken::Member => self.speak_http1(stream, begun, shared).await,
                            Spoken::Http2 => speak_http2(stream, begun, shared).await,
                        }
                    } => {}
                    () = self.cut.cancelled() => {}
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!("a connection ended: {error}"),
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

async fn speak_http2<S>(stream: S, begun: BytesMut, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match Connection::new(shared, stream, begun).await {
        End::Done => {}
        // Clients that go away without a word are no fault of ours.
        End::Fault(reason) => tracing::debug!("a connection ended: its client broke the protocol ({reason:?})"),
        End::Io(error) => tracing::debug!("a connection ended: {error}"),
        End::Lost => tracing::debug!("a connection ended: its client did not answer"),
    }
}
