//! The way to other members, as raft wants it.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use kelson_engine::Backend;
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2, Snapshot,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use crate::{
    kept::Kept,
    peer::{
        self, Appends, Failure, Kind, Roster,
        message::{self, Parsed},
    },
    state::LocalState,
    stats::StatesSent,
    types::{LeaderId, LocalVote, Peer, Types},
};

/// Makes the ways to single members.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) roster: Arc<Roster>,
    /// What is sent to who is too far behind.
    pub(crate) backend: Arc<dyn Backend>,
    /// Bytes of it a second, and of the log to who is far behind.
    pub(crate) rate: u64,
    pub(crate) kept: Arc<Kept>,
    /// Of this process, among all that this member has been.
    pub(crate) life: u64,
    /// States that it has begun to send.
    pub(crate) states: Arc<AtomicU64>,
    /// Those that were taken.
    pub(crate) sent: Arc<StatesSent>,
}

/// The way to one member.
pub(crate) struct Way {
    network: Network,
    target: u64,
}

fn unreachable(error: &io::Error) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(error.to_string())))
}

fn network(why: impl ToString) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&AnyError::error(why)))
}

impl Way {
    /// Raft asks again by itself, sooner than an answer that is late could come.
    async fn call<T>(
        &self,
        kind: Kind,
        limit: Duration,
        body: Vec<u8>,
        read: impl FnOnce(Bytes) -> Parsed<T>,
    ) -> Result<T, RPCError<Types>> {
        let roster = &self.network.roster;
        match roster.link(self.target).call(roster, kind, limit, |frame| frame.put(&body)).await {
            Ok(body) => read(body).map_err(network),
            Err(Failure::Unreached(error)) => Err(unreachable(&error)),
            Err(Failure::Lost(why)) => Err(network(why)),
            Err(Failure::Refused(error)) => Err(network(error)),
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> Way {
        Way { network: self.clone(), target }
    }
}

impl RaftNetworkV2<Types> for Way {
    type SnapshotData = LocalState;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let roster = &self.network.roster;
        let link = roster.link(self.target);
        let called = link.call(roster, Kind::Append, option.hard_ttl(), |frame| {
            message::put_append(frame, &request);
        });
        match called.await {
            Ok(body) => message::appended(body).map_err(network),
            Err(Failure::Unreached(error)) => Err(unreachable(&error)),
            Err(Failure::Lost(why)) => Err(network(why)),
            Err(Failure::Refused(error)) => Err(network(error)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let opened = Appends::open(&self.network.roster, self.target, input, self.network.rate).await;
            let appends = opened.map_err(|error| unreachable(&error))?;
            let answers = stream::unfold(Some(appends), |open| async move {
                let mut appends = open?;
                match appends.next().await? {
                    Ok(answer) => Some((Ok(answer), Some(appends))),
                    Err(error) => Some((Err(network(error)), None)),
                }
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = message::encode_vote_request(&request);
        self.call(Kind::Vote, option.hard_ttl(), body, message::vote_answer).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = message::encode_vote_request(&request);
        self.call(Kind::PreVote, option.hard_ttl(), body, message::vote_answer).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = message::encode_transfer(&request);
        self.call(Kind::Transfer, option.hard_ttl(), body, |_| Ok(Ok(()))).await
    }

    async fn full_snapshot(
        &mut self,
        vote: LocalVote,
        snapshot: Snapshot<LeaderId, u64, Peer, LocalState>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Some(last) = snapshot.meta.last_log_id else { return Ok(SnapshotResponse::new(vote)) };
        let Network { roster, backend, rate, kept, life, states, sent: taken } = &self.network;
        let head = message::encode_begin(&vote, &last, (*life, states.fetch_add(1, Ordering::Relaxed)));
        // Who does not answer is asked again, and sent what the state is then; until then nothing is kept for it.
        let stream = peer::open_state(roster, self.target).await.map_err(|error| unreachable(&error))?;
        tracing::info!("member {:x} is too far behind: sending it the whole state", self.target);
        let _sending = kept.send(self.target, last.index);
        let sent = tokio::select! {
            biased;
            sent = peer::send_state(roster, self.target, stream, backend.clone(), &head, *rate) => sent,
            closed = cancel => return Err(closed.into()),
        };
        match sent {
            Ok(()) => {
                tracing::info!("member {:x} has the whole state", self.target);
                taken.record(self.target);
                Ok(SnapshotResponse::new(vote))
            }
            Err(error) => {
                tracing::warn!("the state could not be sent to member {:x}: {error}", self.target);
                Err(unreachable(&error).into())
            }
        }
    }
}
