//! The listeners: gRPC and plain HTTP, with and without TLS, over TCP and Unix sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kelson_raft::Node;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::background;
use crate::context::Context;
use crate::lanes::Lanes;
use crate::listener::{Listener, Serves, Socket};
use crate::options::ServerOptions;
use crate::router::Router;
use crate::tls::{Fixed, PeerCertificates, TlsSource};
use crate::wire::Wire;

/// Connections at a time for metrics and peers, apart from the clients': they are answered when those are too many.
const OTHER_CONNECTIONS: usize = 512;

/// Bound on a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the usual cause is a lack of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// So many failures in a row mean that the listener is dead.
const ACCEPT_FAILURES: u32 = 200;

/// Serves etcd's API on `listener` until `shutdown` is cancelled; see [`serve_all`].
///
/// # Errors
/// [`Error::Accept`] where the listener fails for good.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let tls = options.tls.as_deref().map(|config| Arc::new(Fixed::new(config)) as Arc<dyn TlsSource>);
    let listener = Listener { socket: Socket::Tcp(listener), serves: Serves::Everything, tls };
    serve_all(node, vec![listener], options, shutdown).await
}

/// Serves on all of `listeners` until `shutdown` is cancelled or one of them fails. [`ServerOptions::tls`] is for
/// [`serve`]: here each listener has its own.
///
/// Then watches and other open streams are ended at once, requests under way are answered within
/// [`ServerOptions::shutdown_grace`], and what still lasts is cut off. The node is left running.
///
/// # Errors
/// [`Error::Accept`] where a listener fails for good.
pub async fn serve_all(
    node: Node,
    listeners: Vec<Listener>,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let clients = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let others = Arc::new(Semaphore::new(OTHER_CONNECTIONS));
    let context = Arc::new(Context::new(node, options, shutdown.clone()));
    let server = Arc::new(Server { grace: context.options.shutdown_grace, wire: Wire::new(context.clone()), context });
    let router = Arc::new(Router::new(server.context.clone())?);
    let tasks = TaskTracker::new();
    tasks.spawn(background::compact(server.context.clone()));
    let lanes = Arc::new(Lanes::start().map_err(Error::Accept)?);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let door = Arc::new(Door { serves: listener.serves, tls: listener.tls, router: router.clone() });
        let is_clients = matches!(door.serves, Serves::Everything | Serves::Grpc | Serves::Http);
        let connections = if is_clients { clients.clone() } else { others.clone() };
        let (server, tasks, shutdown, lanes) = (server.clone(), tasks.clone(), shutdown.clone(), lanes.clone());
        accepting.spawn(async move {
            let take = |stream: Stream, permit| {
                let Some((lane, place)) = lanes.pick() else { return };
                let (server, door) = (server.clone(), door.clone());
                let served = async move {
                    if let Err(error) = server.serve(stream, &door).await {
                        tracing::warn!("a connection could not be served: {error}");
                    }
                    drop((permit, place));
                };
                tasks.spawn_on(served, lane);
            };
            accept(&listener.socket, &shutdown, &connections, take).await
        });
    }
    let mut end = Ok(());
    while let Some(ended) = accepting.join_next().await {
        // A listener that failed ends the server as a shutdown does.
        shutdown.cancel();
        end = end.and(ended.unwrap_or_else(|panic| Err(Error::Accept(io::Error::other(panic)))));
    }
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(server.grace, tasks.wait()).await.is_err() {
        tracing::warn!("cutting off {} connections that did not end in time", tasks.len());
        server.wire.cut.cancel();
        tasks.wait().await;
    }
    end
}

struct Server {
    context: Arc<Context>,
    wire: Wire,
    grace: Duration,
}

/// What the connections of one listener have in common.
struct Door {
    serves: Serves,
    tls: Option<Arc<dyn TlsSource>>,
    router: Arc<Router>,
}

/// A connection as it was accepted, of no runtime.
enum Stream {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// Hands over connections until the shutdown.
async fn accept(
    socket: &Socket,
    shutdown: &CancellationToken,
    connections: &Arc<Semaphore>,
    mut take: impl FnMut(Stream, OwnedSemaphorePermit),
) -> Result<(), Error> {
    let mut failures = 0;
    loop {
        let next = async {
            let permit = connections.clone().acquire_owned().await;
            let stream = match socket {
                Socket::Tcp(listener) => match listener.accept().await {
                    Ok((stream, from)) => stream.into_std().map(|stream| Stream::Tcp(stream, from)),
                    Err(error) => Err(error),
                },
                Socket::Unix(listener, _) => match listener.accept().await {
                    Ok((stream, _)) => stream.into_std().map(Stream::Unix),
                    Err(error) => Err(error),
                },
            };
            (permit, stream)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return Ok(()) };
        match accepted {
            Ok(stream) => {
                failures = 0;
                // Without it small answers wait for acknowledgements; a connection that refuses is as good as gone.
                if !matches!(&stream, Stream::Tcp(stream, _) if stream.set_nodelay(true).is_err()) {
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
    /// Serves a connection in the runtime that calls this.
    async fn serve(&self, stream: Stream, door: &Door) -> io::Result<()> {
        match stream {
            Stream::Tcp(stream, from) => self.connection(TcpStream::from_std(stream)?, Some(from), door).await,
            Stream::Unix(stream) => self.connection(UnixStream::from_std(stream)?, None, door).await,
        }
        Ok(())
    }

    async fn connection<S>(&self, stream: S, from: Option<SocketAddr>, door: &Door)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let counters = self.context.metrics.counters();
        counters.connections.fetch_add(1, Relaxed);
        match &door.tls {
            None => self.wire.speak(stream, door.router.clone(), door.serves, None).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(HANDSHAKE, handshake(stream, &**tls));
                tokio::select! {
                    () = self.context.shutdown.cancelled() => {}
                    done = handshake => match done {
                        Ok(Ok(stream)) => {
                            let peer = stream.get_ref().1.peer_certificates().and_then(PeerCertificates::new);
                            self.wire.speak(stream, door.router.clone(), door.serves, peer).await;
                        }
                        Ok(Err(failed)) => failed.tell(from, door.serves),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            }
        }
        counters.connections.fetch_sub(1, Relaxed);
    }
}

/// A handshake that failed, and the server name that the client asked for.
struct Failed {
    error: std::io::Error,
    server_name: String,
}

/// Speaks TLS as the source says at this moment.
async fn handshake<S>(stream: S, tls: &dyn TlsSource) -> Result<tokio_rustls::server::TlsStream<S>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let began = LazyConfigAcceptor::new(Default::default(), stream).await;
    let began = began.map_err(|error| Failed { error, server_name: String::new() })?;
    let server_name = began.client_hello().server_name().unwrap_or_default().to_owned();
    began.into_stream(tls.config()).await.map_err(|error| Failed { error, server_name })
}

impl Failed {
    /// Says it as etcd does. Who goes away without a word, as probes of a port do, is not worth a warning.
    fn tell(self, from: Option<SocketAddr>, serves: Serves) {
        let Failed { error, server_name } = self;
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return tracing::debug!("a connection ended before its TLS handshake");
        }
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let end = if serves == Serves::Peers { "peer" } else { "client" };
        tracing::warn!(
            "remote-addr" = from,
            "server-name" = server_name,
            %error,
            "rejected connection on {end} endpoint"
        );
    }
}
