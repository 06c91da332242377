//! One of the hot calls under way: from its message to its answer, without tonic and without a task of its own.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use kelson_wire::pb::etcdserverpb::RangeRequest;
use prost::Message;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use super::head::{Head, Hot};
use super::message::Gather;
use super::piece::{Held, Piece};
use super::reply::{self, Reply};
use super::{Shared, pump};
use crate::auth::Caller;
use crate::call::{PREFIX, Sent};
use crate::kv::KvService;
use crate::large::Large;
use crate::{deadline, metrics, refusal};

/// A call. As a future it ends when it is answered, or when its client has given it up.
pub(super) struct Unary {
    shared: Arc<Shared>,
    respond: SendResponse<Piece>,
    /// Until the call is over.
    metered: Option<metrics::Call>,
    stage: Stage,
    at: Option<Instant>,
    /// Made when the call has to wait.
    deadline: Option<Pin<Box<Sleep>>>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Reply, Status>> + Send>>;

enum Stage {
    Gathering { hot: Hot, caller: Caller, body: Incoming },
    Answering(Answering),
    Over,
}

/// A message on its way in.
struct Incoming {
    stream: RecvStream,
    gather: Gather,
    /// Bytes that it counts for among what the connection holds.
    counted: usize,
    held: Arc<Held>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.held.partial(self.counted, 0);
    }
}

impl Incoming {
    /// The whole message; `None` when there will be none, because the client has gone.
    fn poll(&mut self, task: &mut Context<'_>, most: usize) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match ready!(self.stream.poll_data(task)) {
                Some(Ok(data)) => {
                    // Only a stream that is gone has no window any more.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if let Err(status) = self.gather.push(data, most) {
                        return Poll::Ready(Some(Err(status)));
                    }
                    let before = std::mem::replace(&mut self.counted, self.gather.held());
                    if !self.held.partial(before, self.counted) {
                        return Poll::Ready(Some(Err(Status::unknown(refusal::TOO_MANY_REQUESTS))));
                    }
                    if !self.stream.is_end_stream() {
                        continue;
                    }
                }
                Some(Err(_)) => return Poll::Ready(None),
                None => {}
            }
            return Poll::Ready(Some(self.gather.end()));
        }
    }
}

impl Unary {
    /// Takes a call on; see [`Unary::begin`].
    pub(super) fn new(
        shared: Arc<Shared>,
        hot: Hot,
        head: Head,
        stream: RecvStream,
        respond: SendResponse<Piece>,
    ) -> Self {
        let body = Incoming { stream, gather: Gather::default(), counted: 0, held: shared.held.clone() };
        let metered = Some(shared.router.context().metrics.call(hot.place()));
        let mut call = Unary {
            shared,
            respond,
            metered,
            stage: Stage::Gathering { hot, caller: head.caller, body },
            at: head.deadline,
            deadline: None,
        };
        if call.at.is_some_and(|at| at <= Instant::now()) {
            call.finish(Err(deadline::exceeded()));
        } else if let Err(status) = call.shared.router.context().check_leader(head.needs_leader) {
            call.finish(Err(status));
        }
        call
    }

    /// Does what can be done at once. `false` when there is nothing left to do; `true` asks for the call to be polled.
    pub(super) fn begin(&mut self, task: &mut Context<'_>) -> bool {
        self.advance(task).is_pending()
    }

    fn advance(&mut self, task: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Over => return Poll::Ready(()),
                Stage::Gathering { hot, caller, body } => {
                    let most = self.shared.router.context().options.max_message_bytes();
                    let Some(message) = ready!(body.poll(task, most)) else {
                        self.stage = Stage::Over;
                        continue;
                    };
                    let (messages, bytes) = body.gather.counted();
                    if let Some(metered) = &self.metered {
                        metered.received(messages, bytes);
                    }
                    match message {
                        Err(status) => self.finish(Err(status)),
                        Ok(message) => {
                            let (hot, caller) = (*hot, std::mem::take(caller));
                            match answer(&self.shared.router.direct, hot, caller, message) {
                                Ok(answer) => self.finish(answer),
                                Err(answering) => self.stage = Stage::Answering(answering),
                            }
                        }
                    }
                }
                Stage::Answering(answering) => {
                    let answer = ready!(answering.as_mut().poll(task));
                    self.finish(answer);
                }
            }
        }
    }

    /// Sends the answer. One that cannot be sent is a call that its client has given up.
    fn finish(&mut self, answer: Result<Reply, Status>) {
        self.stage = Stage::Over;
        let Some(metered) = self.metered.take() else { return };
        match answer {
            Err(status) => {
                let code = status.code();
                if self.respond.send_response(reply::failure(status), true).is_ok() {
                    metered.ended_with(code);
                }
            }
            Ok(reply) => {
                if let Ok(stream) = self.respond.send_response(reply::head(), false) {
                    self.send(reply, stream, metered);
                }
            }
        }
    }

    fn send(&self, reply: Reply, mut stream: SendStream<Piece>, metered: metrics::Call) {
        let held = &self.shared.held;
        let (bytes, sent) = match reply {
            Reply::Whole(whole) => (whole.len(), stream.send_data(Piece::owed(whole, held), false)),
            Reply::Pieces(pieces) => {
                let bytes = pieces.iter().map(Bytes::len).sum();
                let mut pieces = pieces.into_iter();
                (bytes, pieces.try_for_each(|piece| stream.send_data(Piece::owed(piece, held), false)))
            }
            Reply::Body(body) => {
                let body = Sent::new(body, Arc::new(metered), self.at);
                tokio::spawn(pump::send(stream, body));
                return;
            }
        };
        if sent.and_then(|()| stream.send_trailers(reply::trailers())).is_ok() {
            metered.sent(1, (bytes - PREFIX) as u64);
            metered.ended_with(Code::Ok);
        }
    }
}

impl Future for Unary {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.advance(task).is_ready() {
            return Poll::Ready(());
        }
        if let Some(at) = this.at {
            let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if deadline.as_mut().poll(task).is_ready() {
                this.finish(Err(deadline::exceeded()));
                return Poll::Ready(());
            }
        }
        // Who resets the stream wants no answer.
        this.respond.poll_reset(task).map(drop)
    }
}

fn decode<T: Message + Default>(message: Bytes) -> Result<T, Status> {
    T::decode(message).map_err(|_| refusal::malformed())
}

/// Answers a call at once, or says how it will be.
fn answer(kv: &KvService, hot: Hot, caller: Caller, message: Bytes) -> Result<Result<Reply, Status>, Answering> {
    if hot == Hot::Range {
        let request: RangeRequest = match decode(message) {
            Ok(request) => request,
            Err(status) => return Ok(Err(status)),
        };
        return match kv.range_now(request) {
            ControlFlow::Break(answer) => Ok(answer.map(reply::range)),
            ControlFlow::Continue(request) => Err(Box::pin(range(kv.clone(), caller, request))),
        };
    }
    let kv = kv.clone();
    Err(Box::pin(async move {
        Ok(match hot {
            Hot::Range => range(kv, caller, decode(message)?).await?,
            Hot::Put => reply::whole(&kv.do_put(&caller, decode(message)?).await?),
            Hot::DeleteRange => reply::whole(&kv.do_delete(&caller, decode(message)?).await?),
            Hot::Txn => reply::whole(&kv.do_txn(&caller, decode(message)?).await?),
            Hot::Compact => reply::whole(&kv.do_compact(&caller, decode(message)?).await?),
        })
    }))
}

async fn range(kv: KvService, caller: Caller, request: RangeRequest) -> Result<Reply, Status> {
    let mut answer = kv.do_range(&caller, request).await?;
    let large = Large::take(&mut answer, kv.room()).await?;
    Ok(match large {
        Some(large) => Reply::Body(Body::new(large)),
        None => reply::range(answer),
    })
}
