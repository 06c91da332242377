//! etcd's KV service: reads and writes.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures_util::{Stream, stream};
use kelson_engine::command::{Command, KeyRange, Outcome, RangeRequest as Read};
use kelson_raft::{Error, Inbox};
use kelson_wire::pb::etcdserverpb::kv_server::Kv;
use kelson_wire::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use prost::Message;
use tonic::body::Body;
use tonic::{Request, Response, Status};

use crate::auth::{Caller, Permit};
use crate::body::OwnBody;
use crate::context::Context;
use crate::large::{self, Large, Ranged};
use crate::reads::Found;
use crate::{convert, quota, read_txn, refusal, tally, validate};

/// Keys in the first chunk of a range stream; doubled or halved from there to come near a request's size.
const FIRST_CHUNK: i64 = 10;

/// A write that was proposed: what is needed to answer it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begun {
    /// Of so many bytes of key and value.
    Put {
        bytes: usize,
    },
    DeleteRange,
    /// Of so many bytes put by its failure and its success branch, in the order of [`bool`].
    Txn {
        bytes: [usize; 2],
    },
}

#[derive(Clone)]
pub(crate) struct KvService {
    context: Arc<Context>,
}

impl KvService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Waits until everything acknowledged before can be read, unless that is not asked for.
    async fn barrier(&self, serializable: bool) -> Result<(), Status> {
        if serializable {
            return Ok(());
        }
        self.context.reads.barrier().await.map_err(|error| refusal::of_raft(&error))
    }

    /// Answers a range that has to wait for nothing and nobody, as most do: one key or a few, read on the member that
    /// leads alone, by a caller who need not be known. The request comes back where it has to wait.
    pub(crate) fn range_now(&self, request: RangeRequest) -> ControlFlow<Result<RangeResponse, Status>, RangeRequest> {
        let node = &self.context.node;
        if !(request.serializable || node.read_is_free()) || node.reader().auth_enabled() {
            return ControlFlow::Continue(request);
        }
        if let Err(status) = validate::range(&request) {
            return ControlFlow::Break(Err(status));
        }
        // Of bytes nobody knows before they are read; a key has what a request may have.
        if !request.range_end.is_empty() && !request.count_only {
            return ControlFlow::Continue(request);
        }
        let answer = convert::range(request).and_then(|read| {
            let (revision, answer) = self.context.reads.now(&read).map_err(|error| refusal::of_raft(&error))?;
            self.context.metrics.counters().ranges.fetch_add(1, Relaxed);
            Ok(convert::range_response(self.context.header(revision), answer))
        });
        ControlFlow::Break(answer)
    }

    pub(crate) async fn do_range(&self, caller: &Caller, request: RangeRequest) -> Result<Ranged, Status> {
        validate::range(&request)?;
        self.barrier(request.serializable).await?;
        let read = convert::range(request)?;
        let permit = self.context.permit_read(caller, &read.range).await?;
        let Context { reads, room, metrics, .. } = &*self.context;
        let found = reads.listed_or_read(read, large::LARGE, large::size).await;
        let found = found.map_err(|error| refusal::of_raft(&error))?;
        self.context.still(permit)?;
        metrics.counters().ranges.fetch_add(1, Relaxed);
        match found {
            Found::Read(revision, answer) => {
                let answer = convert::range_response(self.context.header(revision), answer);
                Large::of(answer, room).await
            }
            Found::Listed(listing) => {
                let header = self.context.header(listing.revision);
                let (large, read) = Large::read(listing, header, room).await?;
                reads.begin(read).await.map_err(|error| refusal::of_raft(&error))?;
                Ok(Ranged::Large(large))
            }
        }
    }

    /// Begins a write that need not wait for anything before it is proposed: where the member leads alone, nobody has to be
    /// known, and there is room. The message comes back where it has to.
    pub(crate) fn put_now(
        &self,
        message: Bytes,
        submit: impl FnOnce(Command) -> Result<(), Error>,
    ) -> ControlFlow<Result<Begun, Status>, Bytes> {
        self.now(
            message,
            |request: &PutRequest| quota::put(request),
            |request, length| {
                validate::put(&request)?;
                self.size(&request, length)?;
                let bytes = request.key.len() + request.value.len();
                submit(Command::Put(convert::put(request))).map_err(|error| self.refused(&error))?;
                Ok(Begun::Put { bytes })
            },
        )
    }

    /// [`KvService::put_now`] of a deletion.
    pub(crate) fn delete_now(
        &self,
        message: Bytes,
        submit: impl FnOnce(Command) -> Result<(), Error>,
    ) -> ControlFlow<Result<Begun, Status>, Bytes> {
        self.now(
            message,
            |_| 0,
            |request, length| {
                validate::delete(&request)?;
                self.size(&request, length)?;
                submit(Command::DeleteRange(convert::delete(request))).map_err(|error| self.refused(&error))?;
                Ok(Begun::DeleteRange)
            },
        )
    }

    /// [`KvService::put_now`] of a transaction that writes.
    pub(crate) fn txn_now(
        &self,
        message: Bytes,
        submit: impl FnOnce(Command) -> Result<(), Error>,
    ) -> ControlFlow<Result<Begun, Status>, Bytes> {
        let whole = message.clone();
        let begun = self.now(
            message,
            |request: &TxnRequest| quota::txn(request),
            |request, length| {
                validate::txn(&request, self.context.options.max_txn_ops)?;
                if read_txn::is_read_only(&request) {
                    return Ok(None);
                }
                self.size(&request, length)?;
                let bytes = [tally::put_bytes(&request.success), tally::put_bytes(&request.failure)];
                submit(Command::Txn(convert::txn(request)?)).map_err(|error| self.refused(&error))?;
                Ok(Some(Begun::Txn { bytes }))
            },
        );
        match begun {
            ControlFlow::Break(Ok(None)) => ControlFlow::Continue(whole),
            ControlFlow::Break(Ok(Some(begun))) => ControlFlow::Break(Ok(begun)),
            ControlFlow::Break(Err(status)) => ControlFlow::Break(Err(status)),
            ControlFlow::Continue(message) => ControlFlow::Continue(message),
        }
    }

    fn now<R: Message + Default, B>(
        &self,
        message: Bytes,
        cost: impl FnOnce(&R) -> usize,
        begin: impl FnOnce(R, usize) -> Result<B, Status>,
    ) -> ControlFlow<Result<B, Status>, Bytes> {
        let node = &self.context.node;
        if !node.read_is_free() || node.reader().auth_enabled() {
            return ControlFlow::Continue(message);
        }
        let length = message.len();
        let Ok(request) = R::decode(message.clone()) else { return ControlFlow::Break(Err(refusal::malformed())) };
        if !self.context.quota.admits(node, cost(&request)) {
            return ControlFlow::Continue(message);
        }
        ControlFlow::Break(begin(request, length))
    }

    /// Hands a command to the node; its outcome goes to the inbox, under the stream's number.
    pub(crate) fn submit(&self, command: Command, inbox: &Arc<Inbox>, stream: u32) -> Result<(), Error> {
        self.context.node.submit(command, inbox, u64::from(stream))
    }

    /// [`validate::size`] of a message that came in so many bytes: it is never longer when it is written again.
    fn size(&self, request: &impl Message, length: usize) -> Result<(), Status> {
        let most = self.context.options.max_request_bytes;
        if length + validate::ENVELOPE <= most { Ok(()) } else { validate::size(request, most) }
    }

    /// What a client is told whose command was lost with the node.
    pub(crate) async fn lost(&self) -> Status {
        self.refused(&self.context.node.end().await)
    }

    /// What a client is told whose command was not decided.
    pub(crate) fn refused(&self, error: &Error) -> Status {
        self.context.refused(error)
    }

    pub(crate) async fn do_put(&self, caller: &Caller, request: PutRequest) -> Result<PutResponse, Status> {
        self.context.quota.check(&self.context.node, quota::put(&request)).await?;
        validate::put(&request)?;
        validate::size(&request, self.context.options.max_request_bytes)?;
        let bytes = request.key.len() + request.value.len();
        self.put_done(self.context.ask(caller, Command::Put(convert::put(request))).await?, bytes)
    }

    /// The answer to a put of so many bytes.
    pub(crate) fn put_done(&self, outcome: Outcome, bytes: usize) -> Result<PutResponse, Status> {
        match outcome {
            Outcome::Put { revision, prev_kv } => {
                let counters = self.context.metrics.counters();
                counters.puts.fetch_add(1, Relaxed);
                counters.put_bytes.fetch_add(bytes as u64, Relaxed);
                Ok(PutResponse { header: self.context.header(revision), prev_kv: prev_kv.map(convert::key_value) })
            }
            other => Err(mismatch(&other)),
        }
    }

    pub(crate) async fn do_delete(
        &self,
        caller: &Caller,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        validate::delete(&request)?;
        validate::size(&request, self.context.options.max_request_bytes)?;
        self.delete_done(self.context.ask(caller, Command::DeleteRange(convert::delete(request))).await?)
    }

    /// The answer to a deletion.
    pub(crate) fn delete_done(&self, outcome: Outcome) -> Result<DeleteRangeResponse, Status> {
        match outcome {
            Outcome::DeleteRange { revision, deleted, prev_kvs } => {
                self.context.metrics.counters().deletes.fetch_add(1, Relaxed);
                let prev_kvs = convert::key_values(prev_kvs);
                Ok(DeleteRangeResponse { header: self.context.header(revision), deleted, prev_kvs })
            }
            other => Err(mismatch(&other)),
        }
    }

    pub(crate) async fn do_txn(&self, caller: &Caller, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.context.quota.check(&self.context.node, quota::txn(&request)).await?;
        validate::txn(&request, self.context.options.max_txn_ops)?;
        if read_txn::is_read_only(&request) {
            let serializable = read_txn::is_serializable(&request);
            self.barrier(serializable).await?;
            let (txn, context) = (convert::txn(request)?, &self.context);
            let check = |auth: &_, asker: &_| context.node.reader().check_txn(auth, asker, &txn);
            let permit = context.permit(caller, check).await?;
            let run = read_txn::run(&context.node, &context.reads, txn).await;
            let (revision, answer) = run.map_err(|error| refusal::of_raft(&error))?;
            context.still(permit)?;
            return Ok(self.txn_response(revision, answer));
        }
        validate::size(&request, self.context.options.max_request_bytes)?;
        let bytes = [tally::put_bytes(&request.success), tally::put_bytes(&request.failure)];
        self.txn_done(self.context.ask(caller, Command::Txn(convert::txn(request)?)).await?, bytes)
    }

    /// The answer to a transaction whose branches put so many bytes.
    pub(crate) fn txn_done(&self, outcome: Outcome, bytes: [usize; 2]) -> Result<TxnResponse, Status> {
        match outcome {
            Outcome::Txn { revision, response } => {
                let bytes = bytes[usize::from(!response.succeeded)];
                self.context.metrics.counters().put_bytes.fetch_add(bytes as u64, Relaxed);
                Ok(self.txn_response(revision, response))
            }
            other => Err(mismatch(&other)),
        }
    }

    fn txn_response(&self, revision: i64, answer: kelson_engine::command::TxnResponse) -> TxnResponse {
        tally::operations(&answer.responses, self.context.metrics.counters());
        TxnResponse {
            header: self.context.header(revision),
            succeeded: answer.succeeded,
            responses: convert::op_responses(answer.responses, revision),
        }
    }

    pub(crate) async fn do_compact(
        &self,
        caller: &Caller,
        request: CompactionRequest,
    ) -> Result<CompactionResponse, Status> {
        self.context.admin(caller).await?;
        match self.context.ask(caller, Command::Compact { revision: request.revision }).await? {
            Outcome::Compact { revision } => {
                // History is gone for every reader already; the space is not.
                if request.physical {
                    self.context.node.compaction_done().await.map_err(|error| refusal::of_raft(&error))?;
                }
                Ok(CompactionResponse { header: self.context.header(revision) })
            }
            other => Err(mismatch(&other)),
        }
    }
}

/// The engine answers a command in kind; anything else is a defect that the client may hear of.
pub(crate) fn mismatch(outcome: &Outcome) -> Status {
    Status::internal(format!("the state machine answered with something else: {outcome:?}"))
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        match self.do_range(&Caller::of(&request), request.into_inner()).await? {
            Ranged::Small(answer) => Ok(Response::new(answer)),
            Ranged::Large(large) => {
                let mut response = Response::new(RangeResponse::default());
                OwnBody::attach(&mut response, Body::new(large));
                Ok(response)
            }
        }
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.context.require_leader(request.metadata())?;
        let (caller, request) = (Caller::of(&request), request.into_inner());
        validate::range_stream(&request)?;
        self.barrier(request.serializable).await?;
        let read = convert::range(request)?;
        let permit = self.context.permit_read(&caller, &read.range).await?;
        let chunks = Chunks::new(self.context.clone(), read, permit);
        let stream = stream::unfold(Some(chunks), |chunks| async move {
            let mut chunks = chunks?;
            match chunks.next().await {
                Ok(chunk) => {
                    let left = chunk.header.is_none().then_some(chunks);
                    Some((Ok(RangeStreamResponse { range_response: Some(chunk) }), left))
                }
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_put(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_delete(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_txn(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_compact(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }
}

/// A range in chunks of one revision, so that neither side ever holds more than one of them.
struct Chunks {
    context: Arc<Context>,
    permit: Permit,
    request: Read,
    /// Keys that may still be sent.
    left: i64,
    sent: i64,
    /// The store's revision at the first chunk.
    revision: i64,
}

impl Chunks {
    fn new(context: Arc<Context>, mut request: Read, permit: Permit) -> Self {
        let left = if request.limit <= 0 { i64::MAX } else { request.limit };
        request.limit = if request.count_only { 0 } else { FIRST_CHUNK.min(left) };
        Self { context, permit, request, left, sent: 0, revision: 0 }
    }

    /// The next chunk; the last one is the one with a header.
    async fn next(&mut self) -> Result<kelson_wire::pb::etcdserverpb::RangeResponse, Status> {
        let answer = self.context.reads.local(self.request.clone()).await;
        let (revision, mut answer) = answer.map_err(|error| refusal::of_raft(&error))?;
        self.context.still(self.permit)?;
        self.context.metrics.counters().ranges.fetch_add(1, Relaxed);
        if self.revision == 0 {
            self.revision = revision;
            if self.request.revision <= 0 {
                self.request.revision = revision;
            }
        }
        let got = answer.kvs.len() as i64;
        self.left -= got;
        if !answer.more || self.left <= 0 || self.request.count_only {
            // What was counted begins where this chunk does.
            answer.count += self.sent;
            return Ok(convert::range_response(self.context.header(self.revision), answer));
        }
        self.sent += got;
        let size: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        if let Some(last) = answer.kvs.last() {
            let start = [&last.key[..], &[0]].concat().into();
            self.request.range = KeyRange { start, end: self.request.range.end.clone() };
        }
        let target = self.context.options.max_request_bytes;
        if size < target / 2 {
            self.request.limit = self.request.limit.saturating_mul(2);
        } else if size > target * 2 {
            self.request.limit = (self.request.limit / 2).max(1);
        }
        self.request.limit = self.request.limit.min(self.left);
        answer.more = false;
        answer.count = 0;
        Ok(convert::range_response(None, answer))
    }
}
