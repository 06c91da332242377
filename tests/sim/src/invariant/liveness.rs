//! When nothing goes wrong any more, everybody comes to the same state and serves, within a bounded time.

use std::{sync::Arc, time::Duration};

use kelson_engine::{Command, command::Put};
use kelson_raft::{Error, Node, sim::Crash};

use crate::{
    member::Member,
    poll::{pause, until},
    world::World,
};

/// Until all members that there are have caught up with the leader.
const TOGETHER: Duration = Duration::from_secs(20);
/// For one request of a member that has what the others have.
const SERVED: Duration = Duration::from_secs(6);
/// Until the last lease has run out, and whatever was under way is done.
const QUIET: Duration = Duration::from_secs(15);

/// Ends the faults, and waits until all is well.
pub async fn recovers(world: &Arc<World>) {
    world.net.heal();
    for member in world.members() {
        member.pace.usual.store(world.knobs.sync_ms, std::sync::atomic::Ordering::Relaxed);
        member.pace.broken.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    // Down times that were drawn before end by themselves.
    let Some(members) = members(world).await else {
        return world.violate("liveness", format!("nobody leads within the time: {}", states(world)));
    };
    // One that was added, as nobody had been told, waits to be started.
    for id in members.iter().filter(|id| world.member(**id).is_none()) {
        world.start(Vec::new(), *id);
    }
    // Whoever is no member any more has nobody to tell it.
    for other in world.members() {
        if !members.contains(&other.id) {
            world.remove(other.id);
            other.retire(world);
        }
    }
    if until(TOGETHER, || together(world)).await.is_none() {
        let told = states(world);
        return world.violate("liveness", format!("the members do not come together: {told}"));
    }
    for member in world.members() {
        serves(world, &member).await;
    }
}

/// The members as one that leads for certain knows them.
async fn members(world: &Arc<World>) -> Option<Vec<u64>> {
    let asking = async {
        loop {
            if let Some((node, _)) = leader(world)
                && let Ok(Ok(())) = tokio::time::timeout(SERVED, node.read_barrier()).await
                && node.is_leader()
            {
                return node.members().iter().map(|member| member.id).collect();
            }
            pause(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TOGETHER, asking).await.ok()
}

fn leader(world: &World) -> Option<(Node, Vec<u64>)> {
    let mut leaders: Vec<(u64, Node)> = Vec::new();
    for member in world.members() {
        if let Some((node, _)) = member.running() {
            let status = node.status();
            if status.is_leader && status.leader == status.member_id {
                leaders.push((status.term, node));
            }
        }
    }
    let (_, node) = leaders.into_iter().max_by_key(|(term, _)| *term)?;
    let members = node.members().iter().map(|member| member.id).collect();
    Some((node, members))
}

fn states(world: &World) -> String {
    let state = |member: &Arc<Member>| match member.running() {
        None => format!("{}: down", member.id),
        Some((node, _)) => {
            let status = node.status();
            let (index, applied, leader) = (status.index, status.applied, status.leader);
            let members: Vec<u64> = node.members().iter().map(|member| member.id).collect();
            format!(
                "{}: leader {leader} term {} index {index} applied {applied} of {members:?}",
                member.id, status.term
            )
        }
    };
    world.members().iter().map(state).collect::<Vec<_>>().join("; ")
}

/// Whether all members run, have votes or wait to be promoted, and have applied nearly everything.
fn together(world: &World) -> Option<()> {
    let (leader, ids) = leader(world)?;
    let newest = leader.status().index;
    let running: Vec<_> = world.members().iter().filter_map(|member| member.running()).collect();
    let fits = ids.iter().all(|id| world.member(*id).is_some_and(|member| member.running().is_some()))
        && running.len() == ids.len()
        && running.iter().all(|(node, _)| node.has_leader() && node.status().applied + 50 > newest);
    fits.then_some(())
}

/// A member takes a write and a linearizable read, unless it waits to be promoted or a change from before the end has
/// removed it. One that is still being sent a whole state, which may take longer than a request waits, is asked again.
async fn serves(world: &Arc<World>, member: &Member) {
    let serving = async {
        loop {
            let Some((node, _)) = member.running() else {
                pause(Duration::from_millis(10)).await;
                continue;
            };
            if node.is_learner() {
                return Ok(());
            }
            let (key, value) = (format!("serves/{}", member.id).into(), "yes".into());
            let written = node.propose(Command::Put(Put { key, value, ..Put::default() })).await;
            match if written.is_ok() { node.read_barrier().await } else { written.map(drop) } {
                Err(Error::Replaced | Error::Stopped | Error::Timeout) => pause(Duration::from_millis(10)).await,
                Err(Error::Removed) if leader(world).is_some_and(|(_, ids)| !ids.contains(&member.id)) => return Ok(()),
                served => return served,
            }
        }
    };
    match tokio::time::timeout(TOGETHER, serving).await {
        Ok(Ok(())) => world.note(format!("member {} serves", member.id)),
        other => {
            world.violate("liveness", format!("member {} does not serve: {other:?}; {}", member.id, states(world)))
        }
    }
}

/// Waits until nothing happens any more, and looks whether all are the same.
pub async fn quiet(world: &Arc<World>) {
    let over = || {
        let members: Vec<_> = world.members().iter().filter_map(|member| member.running()).collect();
        let positions: Vec<_> = members.iter().map(|(node, _)| node.reader().applied()).collect();
        let same = positions.windows(2).all(|pair| pair[0] == pair[1]);
        (same && members.iter().all(|(node, _)| node.reader().lease_count() == 0)).then_some(members)
    };
    let Some(members) = until(QUIET, over).await else {
        let running: Vec<_> = world.members().iter().filter_map(|member| member.running()).collect();
        let left: Vec<_> = running.iter().map(|(node, _)| node.reader().lease_count()).collect();
        return world.violate("liveness", format!("it does not come to rest: {}; leases {left:?}", states(world)));
    };
    let hashes: Vec<_> = members.iter().map(|(node, _)| node.reader().hash()).collect();
    if hashes.iter().any(|hash| hash.is_err() || *hash != hashes[0]) {
        world.violate("liveness", format!("the members have different states: {hashes:?}"));
    }
    world.note(format!("at rest: {hashes:?}"));
    // A last start of each from its disk must find the same.
    for member in world.members() {
        member.kill(world, Crash::Power { kept: 0 }, Duration::ZERO);
    }
    if until(TOGETHER, || together(world)).await.is_none() {
        world.violate("liveness", format!("the members do not come together again: {}", states(world)));
    }
    pause(Duration::from_millis(100)).await;
}
