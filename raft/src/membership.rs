//! Changes of who the members are, made one after the other by the leader; other members send theirs to it.
//!
//! A new member with a vote gets that only once it has caught up: until then it counts for nothing, so that adding it
//! never costs the quorum. Beyond raft's own rules those of etcd hold, with its words.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{
    ChangeMembers, ServerState,
    async_runtime::{Instant as _, WatchReceiver},
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{
    Error, Member,
    node::Raft,
    peer::{Failure, Kind, Roster, message},
    proposer,
    types::{Membership, Peer},
};

/// Changes that may wait; one more is refused.
pub(crate) const MOST: usize = 16;
/// Learners that wait to be promoted; each one more costs the leader another stream.
const LEARNERS: usize = 16;
/// Pause between two looks at who may get a vote, and before something refused is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// A new member gets its vote when it lacks no more entries than these.
const CAUGHT_UP: u64 = 64;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member, with a vote (as soon as it has caught up) or as a learner.
    Add { id: u64, peer_urls: Vec<String>, learner: bool },
    /// A learner gets a vote.
    Promote { id: u64 },
    /// A member goes, for ever.
    Remove { id: u64 },
    /// Other members reach it elsewhere.
    Update { id: u64, peer_urls: Vec<String> },
    /// What a member says of itself when it starts.
    Publish { id: u64, name: String, client_urls: Vec<String> },
}

/// A change and who waits for it.
pub(crate) struct Asked {
    pub(crate) change: Change,
    /// Position in the log that contains the change.
    pub(crate) reply: oneshot::Sender<Result<u64, Error>>,
}

/// What changes are made with.
pub(crate) struct Changes {
    pub(crate) raft: Raft,
    pub(crate) roster: Arc<Roster>,
    /// Whether what would put the quorum at risk is refused.
    pub(crate) strict: bool,
    /// One change after the other, wherever it comes from: each looks at what the one before has left.
    pub(crate) turn: Arc<Mutex<()>>,
}

impl Changes {
    /// Runs until the node goes.
    pub(crate) async fn run(self, mut asked: mpsc::Receiver<Asked>) {
        let mut doubted = Instant::now();
        loop {
            match timeout(PAUSE, asked.recv()).await {
                Ok(None) => return,
                Ok(Some(Asked { change, reply })) => {
                    let made = self.make(&change).await;
                    // A caller that has given up is none of our business.
                    let _ = reply.send(made);
                }
                Err(_) => {
                    self.enfranchise().await;
                    if doubted.elapsed() > self.roster.timing.lead {
                        doubted = Instant::now();
                        self.doubt().await;
                    }
                }
            }
        }
    }

    async fn make(&self, change: &Change) -> Result<u64, Error> {
        let until = Instant::now() + self.roster.timing.request;
        loop {
            let made = match self.leader() {
                Some(leader) if leader == self.roster.me => self.lead(change).await,
                Some(leader) => {
                    let link = self.roster.link(leader);
                    let left = until.saturating_duration_since(Instant::now());
                    let called = link.call(&self.roster, Kind::Change, left, |frame| {
                        frame.put(&message::encode_change(change));
                    });
                    match called.await {
                        Ok(body) => message::number(body).map_err(Error::Storage),
                        Err(Failure::Refused(error)) => Err(error),
                        // Not made twice: it may have been made.
                        Err(Failure::Lost(_)) => Err(Error::Timeout),
                        Err(Failure::Unreached(_)) => Err(Error::NoLeader),
                    }
                }
                None => Err(Error::NoLeader),
            };
            match made {
                Err(Error::NoLeader) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                made => return made,
            }
        }
    }

    fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Makes a change as the leader.
    pub(crate) async fn lead(&self, change: &Change) -> Result<u64, Error> {
        let until = Instant::now() + self.roster.timing.request;
        let _turn = timeout(self.roster.timing.request, self.turn.lock()).await.map_err(|_| Error::Timeout)?;
        loop {
            // Looked at each time: whoever it is about may be gone by now, and must not come back.
            match self.write(self.wanted(change)?).await? {
                Some(index) => return Ok(index),
                None if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                None => return Err(Error::Timeout),
            }
        }
    }

    /// What a change is to raft, as the members are now.
    fn wanted(&self, change: &Change) -> Result<ChangeMembers<u64, Peer>, Error> {
        let view = View::of(&self.raft, &self.roster);
        let one = |id: u64, peer: Peer| BTreeMap::from([(id, peer)]);
        Ok(match change {
            Change::Add { id, peer_urls, learner } => {
                view.may_add(*id, peer_urls, *learner, self.strict)?;
                let peer = Peer { peer_urls: peer_urls.clone(), learner: *learner, ..Peer::default() };
                ChangeMembers::AddNodes(one(*id, peer))
            }
            Change::Promote { id } => {
                let peer = view.may_promote(*id)?;
                let peer = Peer { learner: false, ..peer };
                ChangeMembers::Batch(vec![
                    ChangeMembers::SetNodes(one(*id, peer)),
                    ChangeMembers::AddVoterIds(BTreeSet::from([*id])),
                ])
            }
            Change::Remove { id } => {
                view.may_remove(*id, self.strict)?;
                match view.votes.contains(id) {
                    true => ChangeMembers::RemoveVoters(BTreeSet::from([*id])),
                    false => ChangeMembers::RemoveNodes(BTreeSet::from([*id])),
                }
            }
            Change::Update { id, peer_urls } => {
                let peer = view.peer(*id)?;
                if view.peers.iter().any(|(other, peer)| other != id && shares(&peer.peer_urls, peer_urls)) {
                    return Err(Error::PeerUrlExists);
                }
                ChangeMembers::SetNodes(one(*id, Peer { peer_urls: peer_urls.clone(), ..peer }))
            }
            Change::Publish { id, name, client_urls } => {
                let peer = view.peer(*id)?;
                let published = Peer { name: name.clone(), client_urls: client_urls.clone(), ..peer };
                ChangeMembers::SetNodes(one(*id, published))
            }
        })
    }

    /// Returns the position of the change; `None` if another one is under way, which may be an earlier leader's.
    async fn write(&self, changes: ChangeMembers<u64, Peer>) -> Result<Option<u64>, Error> {
        let written = timeout(self.roster.timing.request, self.raft.change_membership(changes, false)).await;
        match written.map_err(|_| Error::Timeout)? {
            Ok(done) => Ok(Some(done.log_id.index)),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => match error {
                ChangeMembershipError::InProgress(_) => Ok(None),
                error => Err(Error::Storage(error.to_string())),
            },
            Err(RaftError::APIError(error)) => Err(proposer::refusal(&error)),
            Err(RaftError::Fatal(_)) => Err(Error::Stopped),
        }
    }

    /// One who is no member as far as it knows asks the others, because they do not tell by themselves: it has been
    /// removed, which ends it, or has not caught up yet with its own joining.
    async fn doubt(&self) {
        let others: Vec<u64> = {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            let membership = now.membership_config.membership();
            let is_member = membership.get_node(&self.roster.me).is_some() || now.state == ServerState::Leader;
            if is_member { Vec::new() } else { membership.nodes().map(|(id, _)| *id).collect() }
        };
        for id in others {
            // The answer is for the link, which looks for this refusal.
            let link = self.roster.link(id);
            if let Err(Failure::Refused(Error::Removed)) =
                link.call(&self.roster, Kind::Read, self.roster.timing.stall, |_| ()).await
            {
                return;
            }
        }
    }

    /// Gives new members their vote when they have caught up.
    async fn enfranchise(&self) {
        let Ok(_turn) = self.turn.try_lock() else { return };
        let view = View::of(&self.raft, &self.roster);
        let ready = view.peers.iter().find(|(id, peer)| {
            !peer.learner && !view.votes.contains(id) && view.lacks(**id).is_some_and(|lacks| lacks <= CAUGHT_UP)
        });
        if let (true, Some((id, _))) = (view.leads, ready) {
            // Tried again at the next look.
            if let Err(error) = self.write(ChangeMembers::AddVoterIds(BTreeSet::from([*id]))).await {
                tracing::warn!("member {id:x} has caught up and could not get its vote: {error}");
            }
        }
    }
}

/// The group at one moment, as etcd's rules look at it.
struct View {
    leads: bool,
    me: u64,
    peers: BTreeMap<u64, Peer>,
    votes: BTreeSet<u64>,
    last: u64,
    matched: BTreeMap<u64, u64>,
    /// Others that answered the leader lately.
    heard: BTreeSet<u64>,
}

/// Who the members are, as the membership says.
pub(crate) fn members(membership: &Membership) -> Vec<Member> {
    let votes: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(id, peer): (&u64, &Peer)| Member {
        id: *id,
        name: peer.name.clone(),
        peer_urls: peer.peer_urls.clone(),
        client_urls: peer.client_urls.clone(),
        is_learner: peer.learner && !votes.contains(id),
    };
    membership.nodes().map(member).collect()
}

fn shares(one: &[String], other: &[String]) -> bool {
    one.iter().any(|url| other.contains(url))
}

impl View {
    fn of(raft: &Raft, roster: &Roster) -> View {
        let metrics = raft.metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        let heartbeat = now.heartbeat.iter().flatten();
        let recent = heartbeat.filter(|(_, at)| at.is_some_and(|at| at.elapsed() < roster.timing.lead));
        let matched = now.replication.iter().flatten().filter_map(|(id, at)| Some((*id, (*at)?.index)));
        View {
            leads: now.state == ServerState::Leader,
            me: roster.me,
            peers: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            votes: membership.voter_ids().collect(),
            last: now.last_log_index.unwrap_or(0),
            matched: matched.collect(),
            heard: recent.map(|(id, _)| *id).collect(),
        }
    }

    fn peer(&self, id: u64) -> Result<Peer, Error> {
        self.peers.get(&id).cloned().ok_or(Error::NoMember)
    }

    /// Entries that a member lacks, if it has been heard.
    fn lacks(&self, id: u64) -> Option<u64> {
        let matched = self.matched.get(&id)?;
        self.heard.contains(&id).then(|| self.last.saturating_sub(*matched))
    }

    /// Members with a vote, or about to get one; `started` are those that have said their name.
    fn voting(&self, except: u64) -> (usize, usize) {
        let voting = || self.peers.iter().filter(|(id, peer)| !peer.learner && **id != except);
        (voting().count(), voting().filter(|(_, peer)| !peer.name.is_empty()).count())
    }

    fn is_connected(&self, id: u64) -> bool {
        id == self.me || self.heard.contains(&id)
    }

    fn may_add(&self, id: u64, urls: &[String], learner: bool, strict: bool) -> Result<(), Error> {
        if self.peers.contains_key(&id) {
            return Err(Error::MemberExists);
        }
        if self.peers.values().any(|peer| shares(&peer.peer_urls, urls)) {
            return Err(Error::PeerUrlExists);
        }
        if learner {
            let learners = self.peers.values().filter(|peer| peer.learner).count();
            return if learners >= LEARNERS { Err(Error::TooManyLearners) } else { Ok(()) };
        }
        if !strict {
            return Ok(());
        }
        let (voting, started) = self.voting(0);
        let after = voting + 1;
        // One member may always get a second one.
        if !(started == 1 && after == 2) && started < after / 2 + 1 {
            return Err(Error::NotEnoughStarted);
        }
        if self.votes.iter().any(|id| !self.is_connected(*id)) {
            return Err(Error::Unhealthy);
        }
        Ok(())
    }

    fn may_remove(&self, id: u64, strict: bool) -> Result<(), Error> {
        let peer = self.peer(id)?;
        let (voting, started) = self.voting(id);
        if peer.learner {
            return Ok(());
        }
        // The last member cannot go, whatever the flags say: nobody would be left to know of it.
        if voting == 0 || (strict && started < voting / 2 + 1) {
            return Err(Error::NotEnoughStarted);
        }
        let connected = self.votes.iter().filter(|voter| **voter != id && self.is_connected(**voter)).count();
        let left = self.votes.iter().filter(|voter| **voter != id).count();
        if strict && connected < left / 2 + 1 { Err(Error::Unhealthy) } else { Ok(()) }
    }

    /// As in etcd, one tenth of the log may be missing.
    fn may_promote(&self, id: u64) -> Result<Peer, Error> {
        let peer = self.peer(id)?;
        if !peer.learner {
            return Err(Error::NotALearner);
        }
        let ready = self.lacks(id).is_some_and(|lacks| lacks <= self.last / 10);
        if ready { Ok(peer) } else { Err(Error::LearnerNotReady) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(started: u64, unstarted: u64) -> View {
        let peer = |id: u64| Peer {
            name: if id <= started { format!("m{id}") } else { String::new() },
            peer_urls: vec![format!("http://m{id}:2380")],
            ..Peer::default()
        };
        let ids = 1..=started + unstarted;
        View {
            leads: true,
            me: 1,
            peers: ids.clone().map(|id| (id, peer(id))).collect(),
            votes: ids.clone().collect(),
            last: 1000,
            matched: ids.clone().map(|id| (id, 1000)).collect(),
            heard: ids.filter(|id| *id <= started).collect(),
        }
    }

    #[test]
    fn etcds_rules_protect_the_quorum() {
        let new = ["http://new:1".to_owned()];
        assert_eq!(view(1, 0).may_add(9, &new, false, true), Ok(()));
        assert_eq!(view(1, 1).may_add(9, &new, false, true), Err(Error::NotEnoughStarted));
        assert_eq!(view(1, 1).may_add(9, &new, false, false), Ok(()));
        assert_eq!(view(3, 0).may_add(9, &new, false, true), Ok(()));
        let mut lonely = view(3, 0);
        lonely.heard.remove(&3);
        assert_eq!(lonely.may_add(9, &new, false, true), Err(Error::Unhealthy));
        assert_eq!(lonely.may_remove(3, true), Ok(()), "the dead one may go");
        assert_eq!(lonely.may_remove(2, true), Err(Error::Unhealthy), "a living one may not");
        assert_eq!(view(3, 0).may_add(2, &new, false, true), Err(Error::MemberExists));
        let taken = ["http://m2:2380".to_owned()];
        assert_eq!(view(3, 0).may_add(9, &taken, true, true), Err(Error::PeerUrlExists));
        assert_eq!(view(1, 0).may_remove(1, false), Err(Error::NotEnoughStarted));
        assert_eq!(view(1, 1).may_remove(1, true), Err(Error::NotEnoughStarted));
        assert_eq!(view(3, 0).may_remove(9, true), Err(Error::NoMember));
    }

    #[test]
    fn a_learner_is_promoted_when_it_is_nearly_there() {
        let mut view = view(3, 0);
        assert_eq!(view.may_promote(3).map(drop), Err(Error::NotALearner));
        view.peers.get_mut(&3).unwrap().learner = true;
        assert!(view.may_promote(3).is_ok());
        view.matched.insert(3, 899);
        assert_eq!(view.may_promote(3).map(drop), Err(Error::LearnerNotReady));
        view.heard.clear();
        view.matched.insert(3, 1000);
        assert_eq!(view.may_promote(3).map(drop), Err(Error::LearnerNotReady));
    }
}
