//! The types that openraft is parameterised with.

use std::{fmt, marker::PhantomData};

use kelson_engine::Outcome;
use openraft::{
    Entry, EntryPayload, RaftTypeConfig,
    impls::{BoxedErrorSource, InlineBatch, Vote, leader_id_adv},
    raft::responder::Responder,
};

use crate::{batch::Batch, task::Runtime};

/// Type parameters of this crate's raft group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

/// What the commands of one batch did, in order.
pub(crate) type Replies = Vec<Result<Outcome, kelson_engine::Error>>;

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Payload = EntryPayload<Batch, u64, Peer>;
pub(crate) type LogEntry = Entry<LeaderId, Payload>;
pub(crate) type LocalVote = Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Peer>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Peer>;

impl RaftTypeConfig for Types {
    type D = Batch;
    type R = Replies;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = LocalVote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// What a membership entry says about a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    /// Whether it is to have no vote until it is promoted. One without a vote that is none of these gets it as soon as it
    /// has caught up.
    pub(crate) learner: bool,
}

/// Runs a closure with the result of a write, on the task that applied it: a whole batch is answered without a channel
/// and a task in between.
pub(crate) struct Callback<T> {
    call: Box<dyn FnOnce(T) + Send>,
    result: PhantomData<fn(T)>,
}

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Callback { call: Box::new(call), result: PhantomData }
    }
}

impl<T> fmt::Debug for Callback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl<T: openraft::OptionalSend + 'static> Responder<Types, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.call)(result)
    }
}
