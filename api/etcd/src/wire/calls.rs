//! The calls that a client makes: begun when they are said whole, and ended when what they wait for is there, when their
//! time is over, or when their client gives them up.

use std::ops::ControlFlow;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use kelson_engine::Outcome;
use kelson_raft::Error;
use kelson_wire::http2::Reason;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body as Answer;

use super::body::{Body, Inbound};
use super::connection::Connection;
use super::head::{Head, Hot};
use super::message::Gather;
use super::reply::{self, APART, Reply};
use super::stream::{Gathering, Stage, Stream};
use super::task::{Answering, Done, Routing, Task, Work};
use super::{MAX_OWED, MAX_PARTIAL, STREAM_WINDOW};
use crate::auth::Caller;
use crate::call::Source;
use crate::kv::{Begun, KvService};
use crate::large::Ranged;
use crate::listener::Serves;
use crate::{deadline, metrics, refusal};

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Opens a stream with the headers that have just been read.
    pub(super) fn open(&mut self, id: u32, ends: bool) -> ControlFlow<Reason> {
        let fields = std::mem::take(&mut self.fields);
        let opened = self.open_with(id, ends, &fields);
        self.fields = fields;
        opened
    }

    fn open_with(&mut self, id: u32, ends: bool, fields: &super::request::Fields) -> ControlFlow<Reason> {
        if fields.too_many() {
            let status = Some(http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            self.heads.any(id, status, &http::HeaderMap::new(), true, self.client.frame, self.out.frames());
            // Nothing is wrong with the stream, but it is not gone on with.
            return if ends { ControlFlow::Continue(()) } else { ControlFlow::Break(Reason::NoError) };
        }
        let Ok(target) = fields.target() else { return ControlFlow::Break(Reason::Protocol) };
        if ends && target.length.is_some_and(|length| length > 0) {
            return ControlFlow::Break(Reason::Protocol);
        }
        let (window, room) = (i64::from(STREAM_WINDOW), i64::from(self.client.window));
        let peer = self.shared.peer.as_ref();
        if matches!(self.shared.serves, Serves::Everything | Serves::Grpc)
            && let Some(hot) = Hot::of(&target)
            && let Some(Head { caller, needs_leader, deadline }) = Head::read(fields, peer)
        {
            let call = Gathering {
                hot,
                caller,
                needs_leader,
                deadline,
                metered: None,
                deferred: false,
                gather: Gather::default(),
            };
            let stage = Stage::Gathering(Box::new(call));
            self.streams.insert(id, Stream::new(!ends, window, room, target.length, stage));
            self.expect(deadline);
            if ends {
                self.run_when_due(id);
            }
            return ControlFlow::Continue(());
        }
        let Ok(mut head) = fields.parts(&target) else { return ControlFlow::Break(Reason::Protocol) };
        if let Some(peer) = peer {
            head.extensions.insert(peer.clone());
        }
        let inbound = Inbound::new(id, STREAM_WINDOW as usize / 2, self.credit.clone());
        if ends {
            inbound.end(None, Ok(()));
        }
        let is_grpc =
            head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let request = Request::from_parts(head, Source::Http2(Body::new(inbound.clone())));
        let shared = self.shared.clone();
        let routing: Routing = match is_grpc {
            true => Box::pin(async move { shared.router.route(shared.serves, request).await }),
            // Others may take their time.
            false => {
                let task = tokio::spawn(async move { shared.router.route(shared.serves, request).await });
                let task = tokio_util::task::AbortOnDropHandle::new(task);
                Box::pin(async move {
                    task.await.unwrap_or_else(|_| Status::internal("the request failed").into_http::<Answer>())
                })
            }
        };
        let (task, abort) = Task::new(id, Work::Routing(routing));
        self.tasks.push(task);
        let stage = Stage::Routed { inbound: Some(inbound), abort: Some(abort), body: None };
        self.streams.insert(id, Stream::new(!ends, window, room, target.length, stage));
        ControlFlow::Continue(())
    }

    /// Goes on with calls for which there was no room.
    pub(super) fn begin_deferred(&mut self) -> bool {
        let mut some = false;
        while self.owed < MAX_OWED
            && let Some(id) = self.deferred.pop_front()
        {
            if let Some(Stream { stage: Stage::Gathering(call), open, .. }) = self.streams.get_mut(&id) {
                call.deferred = false;
                match *open {
                    true => _ = self.begin(id),
                    false => self.run_when_due(id),
                }
            }
            some = true;
        }
        some
    }

    /// Whether a call is begun, which it is with the first word of it, unless its client is owed too much. One that may not
    /// be is answered.
    fn begin(&mut self, id: u32) -> bool {
        let Some(Stream { stage: Stage::Gathering(call), .. }) = self.streams.get_mut(&id) else { return false };
        if self.owed >= MAX_OWED {
            if !std::mem::replace(&mut call.deferred, true) {
                self.deferred.push_back(id);
            }
            return false;
        }
        if call.metered.is_some() {
            return true;
        }
        let context = self.shared.router.context();
        let metered = context.metrics.call(call.hot.place());
        let refused = match call.deadline {
            Some(deadline) if deadline <= Instant::now() => Some(deadline::exceeded()),
            _ => context.check_leader(call.needs_leader).err(),
        };
        if let Some(status) = refused {
            self.partial -= call.gather.held();
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.stage = Stage::Sending;
            }
            self.answer(id, Err(status), metered, None);
            return false;
        }
        call.metered = Some(metered);
        true
    }

    /// Answers a call that is said whole, when its client is not owed too much.
    fn run_when_due(&mut self, id: u32) {
        if self.begin(id) {
            self.run(id);
        }
    }

    /// Sees to it that a call ends at its time.
    fn expect(&mut self, at: Option<Instant>) {
        if let Some(at) = at {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    /// Takes a piece of a hot call's message; `counted` are its bytes in the windows.
    pub(super) fn gather(&mut self, id: u32, piece: Bytes, counted: usize, ends: bool) {
        self.taken += piece.len();
        self.begin(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Stage::Gathering(call) = &mut stream.stage else { return };
        stream.taken += counted;
        let before = call.gather.held();
        let most = self.shared.router.context().options.max_message_bytes();
        let pushed = call.gather.push(piece, most);
        let held = call.gather.held();
        self.partial = self.partial + held - before;
        let refused = match pushed {
            Ok(()) if held > before && self.partial > MAX_PARTIAL => Some(Status::unknown(refusal::TOO_MANY_REQUESTS)),
            pushed => pushed.err(),
        };
        if let Some(status) = refused {
            self.partial -= held;
            let (messages, bytes) = call.gather.counted();
            let metered = call.metered.take();
            let metered = metered.unwrap_or_else(|| self.shared.router.context().metrics.call(call.hot.place()));
            metered.received(messages, bytes);
            stream.stage = Stage::Sending;
            return self.answer(id, Err(status), metered, None);
        }
        match ends {
            true => self.run_when_due(id),
            false => self.widen(id),
        }
    }

    /// Answers a call that is said whole, or sees to it that it will be.
    fn run(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Stage::Gathering(call) = std::mem::replace(&mut stream.stage, Stage::Sending) else { return };
        let Gathering { hot, caller, deadline, metered: Some(metered), mut gather, .. } = *call else { return };
        self.partial -= gather.held();
        let (messages, bytes) = gather.counted();
        metered.received(messages, bytes);
        let message = match gather.end() {
            Ok(message) => message,
            Err(status) => return self.answer(id, Err(status), metered, None),
        };
        let kv = &self.shared.router.direct;
        let submit = |command| kv.submit(command, &self.inbox, id);
        let begun = match hot {
            Hot::Range => return self.range(id, caller, message, metered, deadline),
            Hot::Put => kv.put_now(message, submit),
            Hot::DeleteRange => kv.delete_now(message, submit),
            Hot::Txn => kv.txn_now(message, submit),
            Hot::Compact => ControlFlow::Continue(message),
        };
        match begun {
            ControlFlow::Break(Ok(begun)) => {
                let patience = Instant::now() + self.shared.router.context().node.request_timeout();
                let expires = deadline.map_or(patience, |deadline| deadline.min(patience));
                stream.stage = Stage::Submitted { begun, metered, expires, deadline };
                self.expect(Some(expires));
            }
            ControlFlow::Break(Err(status)) => self.answer(id, Err(status), metered, None),
            ControlFlow::Continue(message) => {
                let answering = slowly(kv.clone(), hot, caller, message);
                self.wait(id, answering, metered, deadline);
            }
        }
    }

    fn range(&mut self, id: u32, caller: Caller, message: Bytes, metered: metrics::Call, deadline: Option<Instant>) {
        let kv = &self.shared.router.direct;
        let request = match decode(message) {
            Ok(request) => request,
            Err(status) => return self.answer(id, Err(status), metered, None),
        };
        match kv.range_now(request) {
            ControlFlow::Break(Ok(answer)) if answer.kvs.iter().all(|kv| kv.value.len() < APART) => {
                self.answer_message(id, &answer, metered);
            }
            ControlFlow::Break(answer) => self.answer(id, answer.map(reply::range), metered, None),
            ControlFlow::Continue(request) => {
                let answering = Box::pin(range(kv.clone(), caller, request));
                self.wait(id, answering, metered, deadline);
            }
        }
    }

    fn wait(&mut self, id: u32, answering: Answering, metered: metrics::Call, deadline: Option<Instant>) {
        let (task, abort) = Task::new(id, Work::Answering(answering));
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.stage = Stage::Answering { metered, deadline, abort };
            self.tasks.push(task);
            self.expect(deadline);
        }
    }

    /// A write of this connection is decided. Its client may have given it up.
    pub(super) fn decided(&mut self, id: u32, outcome: Result<Outcome, Error>) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| matches!(stream.stage, Stage::Submitted { .. }))
        else {
            return;
        };
        let Stage::Submitted { begun, metered, deadline, .. } = std::mem::replace(&mut stream.stage, Stage::Sending)
        else {
            return;
        };
        let shared = self.shared.clone();
        let kv = &shared.router.direct;
        if matches!(outcome, Err(Error::Stopped)) {
            let kv = kv.clone();
            return self.wait(id, Box::pin(async move { Err(kv.lost().await) }), metered, deadline);
        }
        match outcome.map_err(|error| kv.refused(&error)) {
            Err(status) => self.answer(id, Err(status), metered, None),
            Ok(outcome) => match begun {
                Begun::Put { bytes } => self.told(id, kv.put_done(outcome, bytes), metered),
                Begun::DeleteRange => self.told(id, kv.delete_done(outcome), metered),
                Begun::Txn { bytes } => self.told(id, kv.txn_done(outcome, bytes), metered),
            },
        }
    }

    fn told(&mut self, id: u32, answer: Result<impl Message, Status>, metered: metrics::Call) {
        match answer {
            Ok(message) => self.answer_message(id, &message, metered),
            Err(status) => self.answer(id, Err(status), metered, None),
        }
    }

    /// Something that was waited for is there.
    pub(super) fn came(&mut self, id: u32, done: Done) {
        match done {
            Done::Routed(response) => self.routed(id, response),
            Done::Read(body, frame) => self.piece(id, body, frame),
            Done::Answered(answer) => {
                let Some(stream) = self.streams.get_mut(&id) else { return };
                if let Stage::Answering { metered, deadline, .. } = std::mem::replace(&mut stream.stage, Stage::Sending)
                {
                    self.answer(id, answer, metered, deadline);
                }
            }
        }
    }

    /// Ends the calls whose time is over, and notes when the next one's is.
    pub(super) fn expire(&mut self, now: Instant) {
        let when = |stage: &Stage| match stage {
            Stage::Gathering(call) => call.deadline,
            Stage::Submitted { expires, .. } => Some(*expires),
            Stage::Answering { deadline, .. } => *deadline,
            Stage::Routed { .. } | Stage::Sending => None,
        };
        let over = |stream: &Stream| when(&stream.stage).is_some_and(|at| at <= now);
        let late: Vec<u32> = self.streams.iter().filter(|(_, stream)| over(stream)).map(|(id, _)| *id).collect();
        for id in late {
            let shared = self.shared.clone();
            let context = shared.router.context();
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let (metered, told) = match std::mem::replace(&mut stream.stage, Stage::Sending) {
                Stage::Gathering(call) => {
                    self.partial -= call.gather.held();
                    let begun = call.metered;
                    (begun.unwrap_or_else(|| context.metrics.call(call.hot.place())), deadline::exceeded())
                }
                Stage::Submitted { metered, deadline, .. } => match deadline {
                    Some(at) if at <= now => (metered, deadline::exceeded()),
                    _ => (metered, self.shared.router.direct.refused(&Error::Timeout)),
                },
                Stage::Answering { metered, abort, .. } => {
                    abort.abort();
                    (metered, deadline::exceeded())
                }
                other => {
                    stream.stage = other;
                    continue;
                }
            };
            self.answer(id, Err(told), metered, None);
        }
        self.due = self.streams.values().filter_map(|stream| when(&stream.stage)).min();
    }
}

pub(super) fn decode<T: Message + Default>(message: Bytes) -> Result<T, Status> {
    T::decode(message).map_err(|_| refusal::malformed())
}

/// Answers a call that has to wait for something before it can be begun.
fn slowly(kv: KvService, hot: Hot, caller: Caller, message: Bytes) -> Answering {
    Box::pin(async move {
        Ok(match hot {
            Hot::Range => range(kv, caller, decode(message)?).await?,
            Hot::Put => reply::whole(&kv.do_put(&caller, decode(message)?).await?),
            Hot::DeleteRange => reply::whole(&kv.do_delete(&caller, decode(message)?).await?),
            Hot::Txn => reply::whole(&kv.do_txn(&caller, decode(message)?).await?),
            Hot::Compact => reply::whole(&kv.do_compact(&caller, decode(message)?).await?),
        })
    })
}

async fn range(
    kv: KvService,
    caller: Caller,
    request: kelson_wire::pb::etcdserverpb::RangeRequest,
) -> Result<Reply, Status> {
    Ok(match kv.do_range(&caller, request).await? {
        Ranged::Small(answer) => reply::range(answer),
        Ranged::Large(large) => Reply::Body(Answer::new(large)),
    })
}
