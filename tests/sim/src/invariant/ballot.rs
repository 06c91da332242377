//! A vote that another member was told of is never forgotten: or two could lead at once.

use kelson_raft::sim::Ballot;

use crate::world::World;

/// A member tells another how it has voted.
pub fn told(world: &World, member: u64, vote: Ballot) {
    let mut votes = world.votes.lock();
    let greatest = votes.entry(member).or_insert(vote);
    *greatest = vote.max(*greatest);
}

/// A member starts with this vote on its disk.
pub fn kept(world: &World, member: u64, vote: Option<Ballot>) {
    let told = world.votes.lock().get(&member).copied();
    if told > vote {
        world.violate("ballot", format!("member {member} starts with vote {vote:?} after it had told of {told:?}"));
    }
}
