//! What the simulation sees at a member, at every entry that it applies.

use std::{
    sync::{Arc, Weak},
    task::{Context, Waker},
};

use kelson_engine::{Applied, Engine, WatchPoll, WatchSpec, Watcher, command::KeyRange};
use kelson_raft::sim::{Ballot, Observe};
use parking_lot::Mutex;

use crate::{
    chaos::{Aim, Moment},
    invariant::{agreement, ballot, quorum, revisions},
    member::Member,
    truth::Change,
    world::World,
};

/// Entries between two hashes of the whole state.
const HASHED: u64 = 8;

/// The observer of one life of one member.
pub struct Eye {
    world: Weak<World>,
    member: Weak<Member>,
    id: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    watcher: Option<Watcher>,
    applied: Option<Applied>,
    revision: i64,
}

/// Every key.
pub fn everything() -> KeyRange {
    KeyRange { start: vec![0].into(), end: vec![0].into() }
}

impl Eye {
    pub fn new(world: &Arc<World>, member: &Arc<Member>) -> Eye {
        Eye {
            world: Arc::downgrade(world),
            member: Arc::downgrade(member),
            id: member.id,
            seen: Mutex::new(Seen { revision: 1, ..Seen::default() }),
        }
    }
}

impl Observe for Eye {
    fn opened(&self, engine: &Engine) {
        let (Some(world), Some(member)) = (self.world.upgrade(), self.member.upgrade()) else { return };
        let revision = engine.reader().revision();
        let spec = WatchSpec {
            range: everything(),
            start_revision: revision + 1,
            no_put: false,
            no_delete: false,
            prev_kv: false,
        };
        *self.seen.lock() = Seen { watcher: Some(engine.reader().watch(spec)), applied: engine.applied(), revision };
        agreement::opened(&world, self.id, engine);
        ballot::kept(&world, self.id, member.medium.vote());
    }

    fn applied(&self, engine: &Engine) {
        let (Some(world), Some(member), Some(applied)) =
            (self.world.upgrade(), self.member.upgrade(), engine.applied())
        else {
            return;
        };
        let mut seen = self.seen.lock();
        let revision = engine.reader().revision();
        let mut events = Vec::new();
        if let Some(watcher) = &mut seen.watcher {
            let task = &mut Context::from_waker(Waker::noop());
            loop {
                match watcher.poll(task, usize::MAX) {
                    WatchPoll::Events { events: found, .. } => {
                        events.extend(found.iter().map(|event| (event.revision(), Change::of(event))));
                    }
                    WatchPoll::Idle { .. } => break,
                    other => {
                        world.violate(
                            "watch",
                            format!("member {}: the watcher of what is applied saw {other:?}", self.id),
                        );
                        break;
                    }
                }
            }
        }
        revisions::dense(&world, self.id, (seen.revision, revision), &events);
        let is_new = agreement::applied(&world, self.id, (seen.applied, applied), revision, &events);
        if is_new {
            quorum::durable(&world, &member, applied);
            let moment = if revision == seen.revision { Moment::Quiet } else { Moment::Applied };
            Aim::at(&world, moment, Some(&member));
        }
        if applied.index.is_multiple_of(HASHED) {
            agreement::hashed(&world, self.id, applied, engine);
        }
        (seen.applied, seen.revision) = (Some(applied), revision);
    }

    fn voted(&self, vote: Ballot) {
        if let Some(world) = self.world.upgrade() {
            ballot::told(&world, self.id, vote);
        }
    }
}
