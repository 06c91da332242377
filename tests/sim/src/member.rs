//! One member: its medium, its clock, and the process that is started again whenever it has ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kelson_raft::{
    Clock, Config, Data, Error, Node,
    sim::{self, Crash, Life, Medium},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    dice::Dice,
    eye::Eye,
    net::{Socket, url},
    poll::pause,
    world::World,
};

/// A lease clock that runs with the simulated time but may jump ahead.
pub struct JumpingClock {
    begun: Instant,
    ahead_ms: AtomicU64,
}

impl Clock for JumpingClock {
    fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        elapsed + self.ahead_ms.load(Relaxed)
    }
}

/// How long synced writes take.
pub struct Pace {
    dice: Dice,
    /// Milliseconds, at most.
    pub usual: AtomicU64,
    /// The next write fails.
    pub broken: AtomicBool,
    /// One has failed since the process was started.
    failed: AtomicBool,
}

impl Pace {
    /// A whole state: some are large.
    fn whole(&self) -> Duration {
        self.dice.ms(0, self.dice.pick(&[20, 200, 3_000]).unwrap_or(20))
    }

    fn next(&self) -> Option<Duration> {
        if self.broken.load(Relaxed) {
            self.failed.store(true, Relaxed);
            return None;
        }
        Some(self.dice.ms(0, self.usual.load(Relaxed)))
    }
}

/// Pause before a start that has failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// See the module's documentation.
pub struct Member {
    pub id: u64,
    pub medium: Medium,
    pub pace: Arc<Pace>,
    clock: Arc<JumpingClock>,
    /// Of its own, so that one has dropped log that another one has.
    snapshot_entries: u64,
    /// Empty for one that joins.
    founders: Vec<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    life: Option<Life>,
    node: Option<Node>,
    /// How many lives there were.
    lives: u64,
    /// It is not started again.
    gone: bool,
    /// How long it stays down after its next end.
    down: Duration,
}

/// What all members of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    pub snapshot_entries: u64,
    pub kept_flushes: usize,
    pub tail_bytes: usize,
    pub batch_commands: usize,
    pub checkpoint_ms: u64,
    pub lease_check_ms: u64,
    /// How long a synced write takes at most, in milliseconds, while nothing is wrong with the disk.
    pub sync_ms: u64,
    /// Bytes of a whole state that are sent in a second.
    pub state_rate: u64,
    /// Clients of each kind.
    pub writers: u64,
    pub lessees: u64,
}

impl Knobs {
    pub fn draw(dice: &Dice) -> Knobs {
        let pick = |from: &[u64]| dice.pick(from).unwrap_or(1);
        Knobs {
            snapshot_entries: pick(&[10, 30, 60, 200, 100_000]),
            kept_flushes: pick(&[1, 1, 2, 16]) as usize,
            tail_bytes: pick(&[0, 0, 500, 8 << 20]) as usize,
            batch_commands: pick(&[1, 3, 1024]) as usize,
            checkpoint_ms: pick(&[600, 1_200, 300_000]),
            lease_check_ms: pick(&[10, 50]),
            sync_ms: pick(&[1, 4, 4, 25]),
            state_rate: pick(&[10_000, 40_000, 64 << 20]),
            writers: pick(&[1, 2, 4, 8]),
            lessees: pick(&[1, 3, 8]),
        }
    }
}

impl Member {
    pub fn new(id: u64, founders: Vec<u64>, knobs: Knobs, dice: Dice) -> Member {
        let clock = JumpingClock { begun: Instant::now(), ahead_ms: AtomicU64::new(dice.below(1_000_000)) };
        let snapshot_entries = knobs.snapshot_entries * dice.pick(&[1, 1, 4]).unwrap_or(1);
        let pace =
            Arc::new(Pace { dice, usual: AtomicU64::new(knobs.sync_ms), broken: false.into(), failed: false.into() });
        let paced = pace.clone();
        let whole = pace.clone();
        let medium = Medium::new(move || paced.next(), move || whole.whole());
        Member { id, medium, pace, clock: Arc::new(clock), snapshot_entries, founders, state: Mutex::default() }
    }

    /// The node and its life, while it runs.
    pub fn running(&self) -> Option<(Node, Life)> {
        let state = self.state.lock();
        state.node.clone().zip(state.life.clone()).filter(|(_, life)| !life.is_over())
    }

    /// Whether it is never started again.
    pub fn is_gone(&self) -> bool {
        self.state.lock().gone
    }

    /// Its lease clock jumps ahead.
    pub fn jump(&self, ms: u64) {
        self.clock.ahead_ms.fetch_add(ms, Relaxed);
    }

    /// Ends the process at once; it is started again after `down`.
    pub fn kill(&self, world: &World, how: Crash, down: Duration) {
        let life = {
            let mut state = self.state.lock();
            state.down = down;
            state.node = None;
            state.life.take()
        };
        let Some(life) = life else { return };
        life.kill();
        world.net.unplug(self.id, matches!(how, Crash::Power { .. }));
        let unflushed = self.medium.unflushed() as u64;
        self.medium.crash(how, world.dice.between(0, unflushed) as usize);
    }

    /// Ends it for good.
    pub fn retire(&self, world: &World) {
        self.state.lock().gone = true;
        self.kill(world, Crash::Kill, Duration::ZERO);
    }

    fn config(&self, world: &World) -> Config {
        let founder = |id: &u64| kelson_raft::Member {
            id: *id,
            name: format!("member{id}"),
            peer_urls: vec![url(*id)],
            ..kelson_raft::Member::default()
        };
        let lives = {
            let mut state = self.state.lock();
            state.lives += 1;
            state.lives
        };
        Config {
            node_id: self.id,
            cluster_id: 77,
            peer_urls: vec![url(self.id)],
            client_urls: vec![format!("http://member{}:2379", self.id)],
            founders: self.founders.iter().map(founder).collect(),
            joins: self.founders.is_empty(),
            life: self.id << 32 | lives,
            dial: Some(Arc::new(Socket { net: world.net.clone(), from: self.id })),
            clock: self.clock.clone(),
            heartbeat: Duration::from_millis(60),
            election: Duration::from_millis(600),
            request_timeout: Duration::from_secs(3),
            lease_check: Duration::from_millis(world.knobs.lease_check_ms),
            lease_checkpoint: Duration::from_millis(world.knobs.checkpoint_ms),
            snapshot_entries: self.snapshot_entries,
            kept_flushes: world.knobs.kept_flushes,
            state_rate: world.knobs.state_rate,
            log_tail_bytes: world.knobs.tail_bytes,
            max_batch_commands: world.knobs.batch_commands,
            ..Config::new(format!("member{}", self.id), Data::Memory)
        }
    }

    /// Runs the member until it is gone.
    pub async fn live(self: Arc<Self>, world: Arc<World>) {
        while !self.is_gone() {
            let life = Life::new(Arc::new(Eye::new(&world, &self)));
            let config = self.config(&world);
            self.state.lock().life = Some(life.clone());
            let opened = tokio::select! {
                biased;
                () = life.over() => None,
                opened = sim::open(&life, config, &self.medium) => Some(opened),
            };
            match opened {
                None => {}
                Some(Err(error)) => {
                    if !self.pace.failed.load(Relaxed) {
                        world.violate("running", format!("member {} cannot be started: {error}", self.id));
                        self.retire(&world);
                    }
                    life.kill();
                    self.repair(&world);
                    pause(AGAIN).await;
                }
                Some(Ok(node)) => self.run(&world, &life, node).await,
            }
            let down = std::mem::take(&mut self.state.lock().down);
            pause(down).await;
        }
    }

    async fn run(&self, world: &Arc<World>, life: &Life, node: Node) {
        self.medium.taken();
        world.note(format!("member {} runs", self.id));
        self.state.lock().node = Some(node.clone());
        world.net.plug(self.id, node.clone());
        let joining = node.clone();
        // It tells of itself why it has ended.
        life.spawn(async move { drop(joining.joined().await) });
        let ended = tokio::select! {
            biased;
            () = life.over() => return,
            ended = node.stopped() => ended,
        };
        world.note(format!("member {} has ended: {ended:?}", self.id));
        let mut state = self.state.lock();
        (state.node, state.life) = (None, None);
        match &ended {
            Ok(()) | Err(Error::Replaced) => {}
            Err(Error::Removed) if world.is_removing(self.id) => state.gone = true,
            Err(_) if self.pace.failed.load(Relaxed) => {}
            Err(error) => {
                world.violate("running", format!("member {} has ended by itself: {error}", self.id));
                state.gone = true;
            }
        }
        drop(state);
        life.kill();
        world.net.unplug(self.id, false);
        if self.pace.failed.load(Relaxed) {
            self.repair(world);
        }
    }

    /// After a failed disk only what was synced is there.
    fn repair(&self, world: &World) {
        self.pace.broken.store(false, Relaxed);
        self.pace.failed.store(false, Relaxed);
        self.medium.crash(Crash::Power { kept: 0 }, world.dice.between(0, self.medium.unflushed() as u64) as usize);
    }
}
