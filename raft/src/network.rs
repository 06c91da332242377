//! The way to other members. A group of one has none to reach, so every call says that its target is unreachable.

use std::future::Future;

use openraft::{
    AnyError, RaftNetworkFactory, RaftNetworkV2, Snapshot,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

use crate::{
    state::LocalState,
    types::{LeaderId, LocalVote, Peer, Types},
};

/// Makes connections that reach nobody.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alone;

/// A connection to a member that this one has no transport to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreached {
    target: u64,
}

impl Unreached {
    fn error(&self) -> Unreachable<Types> {
        Unreachable::new(&AnyError::error(format!("no transport to member {:x}", self.target)))
    }
}

impl RaftNetworkFactory<Types> for Alone {
    type Network = Unreached;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> Unreached {
        Unreached { target }
    }
}

impl RaftNetworkV2<Types> for Unreached {
    type SnapshotData = LocalState;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(self.error().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.error().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: LocalVote,
        _snapshot: Snapshot<LeaderId, u64, Peer, LocalState>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(self.error().into())
    }
}
