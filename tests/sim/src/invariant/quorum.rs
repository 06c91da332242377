//! What a member applies, so that anybody may be told, is on the disks of more than half of the voters.

use kelson_engine::Applied;
use kelson_raft::sim::{self, Held};

use crate::{member::Member, world::World};

/// Checked where an entry is first applied, unless the voters are about to change or a member's part is not known.
pub fn durable(world: &World, member: &Member, applied: Applied) {
    let Some((node, _)) = member.running() else { return };
    let (voters, settled) = sim::voters(&node);
    let members = world.members();
    let agree = members.iter().filter_map(|other| other.running()).all(|(node, _)| {
        let (theirs, theirs_settled) = sim::voters(&node);
        theirs_settled && theirs == voters
    });
    if !settled || !agree || voters.is_empty() {
        return;
    }
    let holds = |id: &&u64| {
        let Some(member) = members.iter().find(|member| member.id == **id) else { return false };
        match member.medium.held(applied.index) {
            Held::Nothing => false,
            Held::Entry { term, node } => (term, node) == (applied.term, applied.node),
            Held::Purged => true,
        }
    };
    let holders = voters.iter().filter(holds).count();
    if holders <= voters.len() / 2 {
        let index = applied.index;
        world.violate(
            "quorum",
            format!(
                "member {} applies entry {index}, which is durable on {holders} of the voters {voters:?}",
                member.id
            ),
        );
    }
}
