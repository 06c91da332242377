//! A stream of keep-alives: its answers in the order of its requests, all that can be answered now in one piece.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http::HeaderMap;
use http_body::{Body, Frame};
use kelson_wire::pb::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use prost::Message;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::LeaseService;
use crate::auth::Caller;
use crate::call::PREFIX;
use crate::context::LeaderLost;
use crate::refusal;

/// Answers in one piece at most. What comes then waits until the client has taken it, so nothing piles up.
const TURN: usize = 256;

type Answering = Pin<Box<dyn Future<Output = Result<LeaseKeepAliveResponse, Status>> + Send>>;

pub(super) struct Renewals {
    service: LeaseService,
    caller: Caller,
    requests: Streaming<LeaseKeepAliveRequest>,
    /// The request at hand.
    answering: Option<Answering>,
    out: BytesMut,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends when there is no leader, where the client wants to know.
    lost: LeaderLost,
    /// How the stream ends, once what was answered before is sent.
    end: Option<Status>,
    ended: bool,
}

impl Renewals {
    pub(super) fn new(
        service: LeaseService,
        caller: Caller,
        requests: Streaming<LeaseKeepAliveRequest>,
        lost: LeaderLost,
    ) -> Self {
        let stopping = Box::pin(service.context.shutdown.clone().cancelled_owned());
        let out = BytesMut::new();
        Self { service, caller, requests, answering: None, out, stopping, lost, end: None, ended: false }
    }

    /// Answers what there is; ready when the stream ends.
    fn work(&mut self, task: &mut Task<'_>) -> Poll<Status> {
        for _ in 0..TURN {
            if self.answering.is_none() {
                if self.stopping.as_mut().poll(task).is_ready() {
                    return Poll::Ready(Status::unavailable(refusal::STOPPED));
                }
                if self.lost.as_mut().poll(task).is_ready() {
                    return Poll::Ready(Status::unavailable(refusal::NO_LEADER));
                }
                let Some(next) = ready!(Pin::new(&mut self.requests).poll_next(task)) else {
                    return Poll::Ready(Status::ok(""));
                };
                let request = match next {
                    Ok(request) => request,
                    Err(status) => return Poll::Ready(refusal::of_wire(status)),
                };
                let (service, caller) = (self.service.clone(), self.caller.clone());
                self.answering = Some(Box::pin(async move { service.keep_alive(&caller, &request).await }));
            }
            let Some(answering) = &mut self.answering else { continue };
            let answer = ready!(answering.as_mut().poll(task));
            self.answering = None;
            match answer {
                Ok(answer) => self.say(&answer),
                Err(status) => return Poll::Ready(status),
            }
        }
        // There may be more, after what is said to these.
        task.waker().wake_by_ref();
        Poll::Pending
    }

    fn say(&mut self, answer: &LeaseKeepAliveResponse) {
        let length = answer.encoded_len();
        self.out.reserve(PREFIX + length);
        self.out.put_u8(0);
        self.out.put_u32(length as u32);
        answer.encode_raw(&mut self.out);
    }
}

impl Body for Renewals {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.end.is_none()
            && !this.ended
            && let Poll::Ready(end) = this.work(task)
        {
            this.end = Some(end);
        }
        if !this.out.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let Some(end) = this.end.take() else { return Poll::Pending };
        this.ended = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(end.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}
