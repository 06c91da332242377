//! One HTTP/2 connection: takes requests in, answers what can be answered, and sends all of it together.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Shared;
use super::body::Body;
use super::head::{Head, Hot};
use super::keepalive::{KeepAlive, Lost};
use super::piece::Piece;
use super::pump;
use super::socket::{Outlet, Sent, Socket};
use super::unary::Unary;
use crate::call::Source;
use crate::listener::Serves;

/// Requests and answers that are dealt with before others of the runtime have their turn.
const TURN: usize = 512;

/// An HTTP/2 connection. As a future it ends with the connection.
pub(super) struct Connection<S> {
    shared: Arc<Shared>,
    http: h2::server::Connection<Socket<S>, Piece>,
    outlet: Outlet<S>,
    /// Hot calls that wait for something.
    calls: FuturesUnordered<Unary>,
    keep_alive: Option<KeepAlive>,
    /// Until a stop was asked for.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Why a connection ended.
pub(super) enum End {
    /// In order, or cut by the client.
    Done,
    Http(h2::Error),
    Io(std::io::Error),
    /// The client did not answer a ping.
    Lost,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        http: h2::server::Connection<Socket<S>, Piece>,
        outlet: Outlet<S>,
        keep_alive: Option<KeepAlive>,
    ) -> Self {
        let stop = Some(Box::pin(shared.router.context().shutdown.clone().cancelled_owned()));
        Self { shared, http, outlet, calls: FuturesUnordered::new(), keep_alive, stop }
    }

    /// Deals with one request.
    fn take(&mut self, task: &mut Context<'_>, request: Request<RecvStream>, respond: SendResponse<Piece>) {
        let (mut head, body) = request.into_parts();
        let peer = self.shared.peer.as_ref();
        if matches!(self.shared.serves, Serves::Everything | Serves::Grpc)
            && let Some(hot) = Hot::of(&head)
            && let Some(read) = Head::read(&head.headers, peer)
        {
            let mut call = Unary::new(self.shared.clone(), hot, read, body, respond);
            if call.begin(task) {
                self.calls.push(call);
            }
            return;
        }
        if let Some(peer) = peer {
            head.extensions.insert(peer.clone());
        }
        let request = Request::from_parts(head, Source::Http2(Body::new(body)));
        tokio::spawn(pump::serve(self.shared.clone(), request, respond));
    }

    /// Goes on until there is nothing to do, or its turn is over; `Pending` in the first case.
    fn work(&mut self, task: &mut Context<'_>) -> Poll<Option<End>> {
        for _ in 0..TURN {
            let mut idle = true;
            // What is owed to a client that does not take it stays as it is until it does.
            while self.shared.held.has_room()
                && let Poll::Ready(Some(())) = self.calls.poll_next_unpin(task)
            {
                idle = false;
            }
            let had_room = self.shared.held.has_room();
            let polled = match had_room {
                true => self.http.poll_accept(task),
                // Drives the connection all the same; streams that the client opens meanwhile are bounded by `h2`.
                false => self.http.poll_closed(task).map(|closed| closed.err().map(Err)),
            };
            match polled {
                Poll::Ready(Some(Ok((request, respond)))) => self.take(task, request, respond),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(End::Http(error))),
                Poll::Ready(None) => return Poll::Ready(Some(End::Done)),
                Poll::Pending if idle && had_room == self.shared.held.has_room() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        Poll::Ready(None)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        if this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(task).is_ready()) {
            this.stop = None;
            this.http.graceful_shutdown();
        }
        loop {
            let worked = this.work(task);
            // Both what was just written and why a connection ends is to be told.
            let sent = match this.outlet.send(task) {
                Poll::Ready(Err(error)) => return Poll::Ready(End::Io(error)),
                Poll::Ready(Ok(sent)) => Some(sent),
                Poll::Pending => None,
            };
            match (worked, sent) {
                (Poll::Ready(Some(end)), _) => return Poll::Ready(end),
                (Poll::Ready(None), _) => {
                    task.waker().wake_by_ref();
                    break;
                }
                // What HTTP/2 could not write before it can write now, and nobody else would tell it.
                (Poll::Pending, Some(Sent::Resume)) => {}
                (Poll::Pending, _) => break,
            }
        }
        if let Some(keep_alive) = &mut this.keep_alive
            && let Poll::Ready(Lost) = keep_alive.poll(task, &this.outlet)
        {
            return Poll::Ready(End::Lost);
        }
        Poll::Pending
    }
}
