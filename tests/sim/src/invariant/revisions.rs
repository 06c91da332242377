//! Revisions are dense and grow by one per writing transaction.

use crate::{truth::Change, world::World};

/// Whether an entry has led from one revision to another without leaving one out.
pub fn dense(world: &World, member: u64, (before, after): (i64, i64), events: &[(i64, Change)]) {
    let groups = events.chunk_by(|(one, _), (other, _)| one == other).map(|group| group[0].0);
    if !groups.eq(before + 1..=after) {
        let told: Vec<i64> = events.iter().map(|(revision, _)| *revision).collect();
        world.violate(
            "revisions",
            format!("member {member} goes from revision {before} to {after} with events at {told:?}"),
        );
    }
}
