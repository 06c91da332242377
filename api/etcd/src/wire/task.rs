//! What a connection waits for on behalf of its streams, and polls itself.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable};
use http::Response;
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;

use super::reply::Reply;

/// One wait. As a future it tells for which stream it was, and `None` where it was given up.
pub(super) struct Task {
    stream: u32,
    work: Abortable<Work>,
}

pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Reply, Status>> + Send>>;
pub(super) type Routing = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What is waited for.
pub(super) enum Work {
    /// The answer to a hot call that could not be given at once.
    Answering(Answering),
    /// The head of an answer of other services.
    Routing(Routing),
    /// The next piece of a body.
    Reading(Option<Body>),
}

/// What came of it.
pub(super) enum Done {
    Answered(Result<Reply, Status>),
    Routed(Response<Body>),
    /// The body, and what was read of it.
    Read(Body, Option<Result<Frame<Bytes>, Status>>),
}

impl Task {
    /// A wait, and the means to give it up.
    pub(super) fn new(stream: u32, work: Work) -> (Self, AbortHandle) {
        let (work, abort) = futures_util::future::abortable(work);
        (Self { stream, work }, abort)
    }
}

impl Future for Work {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Done> {
        match self.get_mut() {
            Work::Answering(answer) => answer.as_mut().poll(task).map(Done::Answered),
            Work::Routing(response) => response.as_mut().poll(task).map(Done::Routed),
            Work::Reading(body) => {
                // Polled again after its end, it has none.
                let Some(reading) = body else { return Poll::Pending };
                let frame = ready!(Pin::new(reading).poll_frame(task));
                body.take().map_or(Poll::Pending, |body| Poll::Ready(Done::Read(body, frame)))
            }
        }
    }
}

impl Future for Task {
    type Output = (u32, Option<Done>);

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<(u32, Option<Done>)> {
        let this = self.get_mut();
        let done = ready!(Pin::new(&mut this.work).poll(task));
        Poll::Ready((this.stream, done.ok()))
    }
}
