//! What the simulation of a whole cluster needs of this crate: nodes that run on the runtime at hand and can be killed
//! between any two steps, and media that outlive them.
//!
//! Everything is on one thread, and whatever chance decides is drawn from [`seed`]: a run repeats exactly.

mod disk;
mod life;
mod medium;
mod runtime;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use kelson_engine::Engine;
use openraft::raft::VoteResponse;

pub use self::{
    life::Life,
    medium::{Crash, Held, Medium},
    runtime::seed,
};
pub(crate) use self::{
    life::{blocking, spawn},
    runtime::Runtime,
};
use crate::{
    Config, Error, Node,
    node::Raft,
    start::{self},
    types::Types,
};

/// Sees what no client sees.
pub trait Observe: Send + Sync + 'static {
    /// A state has been opened; nothing has been applied to it yet.
    fn opened(&self, engine: &Engine);

    /// An entry has been applied, and nobody has been told.
    fn applied(&self, engine: &Engine);

    /// This member is about to tell another that it has voted.
    fn voted(&self, vote: Ballot);
}

/// A vote: for whom, in which term, and whether the quorum has granted it as far as the voter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    pub term: u64,
    pub node: u64,
    pub granted: bool,
}

pub(crate) fn opened(engine: &Engine) {
    life::with_observer(|observer| observer.opened(engine));
}

pub(crate) fn applied(engine: &Engine) {
    life::with_observer(|observer| observer.applied(engine));
}

pub(crate) fn voted(answer: &VoteResponse<Types>) {
    if answer.vote_granted {
        let (leader, granted) = (answer.vote.leader_id, answer.vote.committed);
        life::with_observer(|observer| observer.voted(Ballot { term: leader.term, node: leader.node_id, granted }));
    }
}

/// Opens a node as [`Node::open`] does, on a medium, within a life. Where the life ends first this never returns.
///
/// # Errors
/// As [`Node::open`].
pub fn open(life: &Life, config: Config, medium: &Medium) -> BoxFuture<'static, Result<Node, Error>> {
    let parts = medium.parts();
    let opening = async move {
        config.validate()?;
        let (inner, background) = start::start(config, parts).await?;
        spawn(async move { background.run().await.tell() });
        Ok(Node::of(Arc::new(inner)))
    };
    let opening = life.spawn(opening);
    // Boxed here, or whoever calls it compiles all of openraft once more.
    Box::pin(async move {
        match opening.await {
            Ok(opened) => opened,
            // Killed: or it has panicked, which its maker is told by the hook of panics.
            Err(_) => std::future::pending().await,
        }
    })
}

/// The members with a vote that the newest entry of this node's log names, and whether that is what all of them will go by:
/// it is in what has been applied.
pub fn voters(node: &Node) -> (Vec<u64>, bool) {
    use openraft::async_runtime::WatchReceiver;
    let metrics = Raft::metrics(node.raft());
    let now = metrics.borrow_watched();
    let config = &now.membership_config;
    let settled = config.log_id().as_ref() <= now.last_applied.as_ref() && config.get_joint_config().len() == 1;
    (config.voter_ids().collect(), settled)
}
