//! Watchers, which go on at any member from where they are.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use kelson_engine::{WatchPoll, WatchSpec, command::KeyRange};
use tokio::task::JoinHandle;

use crate::{client::while_running, dice::Dice, eye::everything, poll::pause, truth::Change, world::World};

/// Events of one poll.
const EVENTS: usize = 8;

/// What one watcher was told.
#[derive(Clone, Debug)]
pub struct Watched {
    pub prefix: &'static str,
    /// Changes by revision.
    pub record: BTreeMap<i64, Vec<Change>>,
    /// Everything up to here was told.
    pub upto: i64,
    /// Gaps that it was told of: the first revision that it lacks, and the first that it may have again.
    pub gaps: Vec<(i64, i64)>,
}

pub fn spawn(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let watchers = [("", everything(), 0), ("r/", KeyRange { start: "r/".into(), end: "r0".into() }, 1_500)];
    let spawn = |(number, (prefix, range, nap)): (usize, (&'static str, KeyRange, u64))| {
        let watched = Watched { prefix, record: BTreeMap::new(), upto: 1, gaps: Vec::new() };
        world.watched.lock().push(watched);
        let (world, dice) = (world.clone(), world.dice.fork(2000 + number as u64));
        tokio::spawn(async move {
            let watcher = Watch { world: world.clone(), dice, range, number, nap };
            while_running(&world, watcher.run()).await;
        })
    };
    watchers.into_iter().enumerate().map(spawn).collect()
}

struct Watch {
    world: Arc<World>,
    dice: Dice,
    range: KeyRange,
    number: usize,
    /// Milliseconds that it sleeps at most between two polls now and then, so that compactions overtake it.
    nap: u64,
}

impl Watch {
    async fn run(self) {
        loop {
            let member = self.dice.pick(&self.world.members());
            let Some((node, life)) = member.and_then(|member| member.running()) else {
                pause(Duration::from_millis(20)).await;
                continue;
            };
            let spec = WatchSpec {
                range: self.range.clone(),
                start_revision: self.world.watched.lock()[self.number].upto + 1,
                no_put: false,
                no_delete: false,
                prev_kv: false,
            };
            let mut watcher = node.reader().watch(spec);
            // The reader keeps the state alive, not the node.
            drop(node);
            let leaving = pause(self.dice.ms(200, 3_000));
            let telling = async {
                loop {
                    let told = poll_fn(|cx| match watcher.poll(cx, EVENTS) {
                        WatchPoll::Idle { .. } => Poll::Pending,
                        told => Poll::Ready(told),
                    });
                    let told = told.await;
                    if !self.take(told) {
                        return;
                    }
                    if self.nap > 0 && self.dice.percent(20) {
                        pause(self.dice.ms(0, self.nap)).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = life.over() => {}
                () = telling => {}
                () = leaving => {}
            }
        }
    }

    /// Notes what was told; whether the watch goes on.
    fn take(&self, told: WatchPoll) -> bool {
        let mut watched = self.world.watched.lock();
        let watched = &mut watched[self.number];
        match told {
            WatchPoll::Events { events, revision } => {
                let newest = self.world.truth.lock().revision();
                for event in events.iter() {
                    if event.revision() > newest {
                        self.world
                            .violate("watch", format!("revision {} is watched and was not applied", event.revision()));
                    }
                    if event.revision() <= watched.upto {
                        self.world.violate("watch", format!("revision {} is watched again", event.revision()));
                    }
                    watched.record.entry(event.revision()).or_default().push(Change::of(event));
                }
                watched.upto = watched.upto.max(revision);
                true
            }
            WatchPoll::Compacted { compact_revision } => {
                watched.gaps.push((watched.upto + 1, compact_revision));
                watched.upto = compact_revision - 1;
                false
            }
            WatchPoll::Failed(error) => {
                self.world.violate("watch", format!("a watch has failed: {error}"));
                false
            }
            WatchPoll::Idle { .. } => true,
        }
    }
}
