//! Changes of what the group knows of its members, made one after the other beside raft.

use std::collections::BTreeMap;

use openraft::{ChangeMembers, async_runtime::WatchReceiver, errors::RaftError};
use tokio::sync::{mpsc, oneshot};

use crate::{Error, node::Raft, proposer, types::Peer};

/// Changes that may wait; one more is refused.
pub(crate) const MOST: usize = 16;

/// New addresses of a member for other members.
pub(crate) struct Update {
    pub(crate) id: u64,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) reply: oneshot::Sender<Result<(), Error>>,
}

/// Runs until the node goes.
pub(crate) async fn run(raft: Raft, mut updates: mpsc::Receiver<Update>) {
    while let Some(update) = updates.recv().await {
        let done = set(&raft, update.id, update.peer_urls).await;
        // A caller that has given up is none of our business.
        let _ = update.reply.send(done);
    }
}

async fn set(raft: &Raft, id: u64, peer_urls: Vec<String>) -> Result<(), Error> {
    let membership = raft.metrics().borrow_watched().membership_config.clone();
    let known = membership.nodes().find(|(known, _)| **known == id).map(|(_, peer)| peer.clone());
    let peer = Peer { peer_urls, ..known.ok_or(Error::NoMember)? };
    match raft.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true).await {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(error)) => Err(proposer::refusal(&error)),
        Err(RaftError::Fatal(_)) => Err(Error::Stopped),
    }
}
