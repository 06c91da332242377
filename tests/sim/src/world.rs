//! One run: a cluster, its clients, what goes wrong, and everything that is known of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kelson_raft::sim::Ballot;
use parking_lot::Mutex;
use tokio::{runtime::RngSeed, time::Instant};

use crate::{
    chaos,
    client::{self, Told},
    dice::Dice,
    invariant::liveness,
    member::{Knobs, Member},
    net::Net,
    poll::pause,
    truth::Truth,
    watcher::{self, Watched},
};

/// Lines of the trace that a failed run shows, unless all are asked for.
const SHOWN: usize = 80;
/// Complaints that are kept of one run.
const COMPLAINTS: usize = 20;

/// See the module's documentation.
pub struct World {
    pub dice: Dice,
    pub knobs: Knobs,
    pub net: Arc<Net>,
    pub truth: Mutex<Truth>,
    pub told: Mutex<Told>,
    pub watched: Mutex<Vec<Watched>>,
    /// The greatest vote that each member has told of.
    pub votes: Mutex<BTreeMap<u64, Ballot>>,
    /// Jumps of lease clocks, and when.
    pub jumps: Mutex<Vec<(Duration, Duration)>>,
    /// Who is to end at a certain moment.
    pub aim: Mutex<Option<chaos::Aim>>,
    members: Mutex<BTreeMap<u64, Arc<Member>>>,
    removing: Mutex<BTreeSet<u64>>,
    begun: Instant,
    ticks: AtomicU64,
    numbers: AtomicU64,
    ending: AtomicBool,
    trace: Mutex<Trace>,
    violations: Mutex<Vec<Violation>>,
}

/// Something that does not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    kept: usize,
}

/// How a run ended.
pub struct Outcome {
    /// Of everything that happened, in order.
    pub hash: u64,
    pub trace: Vec<String>,
    pub violations: Vec<Violation>,
    /// Requests that were answered, and revisions that they made.
    pub answers: usize,
    pub revisions: i64,
    pub entries: u64,
    /// How much time the run took in the simulation.
    pub lasted: Duration,
}

impl World {
    fn new(seed: u64, whole_trace: bool) -> World {
        let dice = Dice::new(seed);
        let kept = if whole_trace { usize::MAX } else { SHOWN };
        World {
            knobs: Knobs::draw(&dice),
            net: Arc::new(Net::new(dice.fork(1))),
            dice,
            truth: Mutex::default(),
            told: Mutex::default(),
            watched: Mutex::default(),
            votes: Mutex::default(),
            jumps: Mutex::default(),
            aim: Mutex::default(),
            members: Mutex::default(),
            removing: Mutex::default(),
            begun: Instant::now(),
            ticks: AtomicU64::new(1),
            numbers: AtomicU64::new(1),
            ending: AtomicBool::new(false),
            trace: Mutex::new(Trace { hash: 0, lines: VecDeque::new(), kept }),
            violations: Mutex::default(),
        }
    }

    /// Simulated time since the run began.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A moment that is later than all earlier ones.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Relaxed)
    }

    /// A number that is given once.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    /// Whether the clients are to end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    /// Tells the trace.
    pub fn note(&self, what: impl AsRef<str>) {
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = write!(line, "{:>6} {}", self.now().as_millis(), what.as_ref());
        let mut trace = self.trace.lock();
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if trace.lines.len() >= trace.kept {
            trace.lines.pop_front();
        }
        trace.lines.push_back(line);
    }

    /// Something does not hold, which is the matter of this file of `invariant`: or `running`, as no member ends by itself,
    /// or `panic`.
    pub fn violate(&self, invariant: &'static str, what: String) {
        self.note(format!("VIOLATION of {invariant}: {what}"));
        let mut violations = self.violations.lock();
        if violations.len() < COMPLAINTS {
            let what = format!("at {} ms: {what}", self.now().as_millis());
            violations.push(Violation { invariant, what });
        }
    }

    /// Members that run or will run again.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.members.lock().values().filter(|member| !member.is_gone()).cloned().collect()
    }

    pub fn member(&self, id: u64) -> Option<Arc<Member>> {
        self.members.lock().get(&id).cloned()
    }

    /// Starts a member; one without founders joins.
    pub fn start(self: &Arc<Self>, founders: Vec<u64>, id: u64) {
        let member = Arc::new(Member::new(id, founders, self.knobs, self.dice.fork(100 + id)));
        self.members.lock().insert(id, member.clone());
        tokio::spawn(member.live(self.clone()));
    }

    /// From now on this member may be told that it is none any more.
    pub fn remove(&self, id: u64) {
        self.removing.lock().insert(id);
    }

    pub fn is_removing(&self, id: u64) -> bool {
        self.removing.lock().contains(&id)
    }
}

/// Runs one seed to its end.
pub fn run(seed: u64, whole_trace: bool) -> Outcome {
    crate::panics::collect();
    kelson_raft::sim::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime without I/O needs nothing");
    let world = runtime.block_on(async {
        let world = Arc::new(World::new(seed, whole_trace));
        let living = world.clone();
        // As a task: its panics are complaints like any other.
        let lived = tokio::spawn(async move { live(&living).await }).await;
        if lived.is_err() {
            world.violate("panic", "the run has not come to its end".to_owned());
        }
        world
    });
    // What is left of the members goes with the runtime, and what they know of each other.
    drop(runtime);
    world.net.clear();
    world.outcome()
}

/// The whole life of a world.
async fn live(world: &Arc<World>) {
    let dice = world.dice.fork(2);
    let founders: Vec<u64> = (1..=if dice.percent(70) { 3 } else { 5 }).collect();
    world.note(format!("{} members, {:?}", founders.len(), world.knobs));
    for id in &founders {
        world.start(founders.clone(), *id);
    }
    let mut clients = client::spawn(world);
    clients.extend(watcher::spawn(world));
    chaos::rage(world, dice.ms(5_000, 10_000)).await;
    world.note("the faults are over");
    liveness::recovers(world).await;
    world.ending.store(true, Relaxed);
    for client in clients {
        if client.await.is_err() {
            world.violate("panic", "a client has panicked".to_owned());
        }
    }
    liveness::quiet(world).await;
    // Whoever is late to panic does so now.
    pause(Duration::from_millis(1)).await;
}

impl World {
    fn outcome(&self) -> Outcome {
        use crate::{
            invariant::{answers, compaction, durability, lease, register, watch},
            order,
        };
        let (told, truth) = (self.told.lock(), self.truth.lock());
        let mut violations = self.violations.lock().clone();
        let mut check = |invariant, check: &dyn Fn(&mut Vec<String>)| {
            let mut found = Vec::new();
            check(&mut found);
            violations.extend(found.into_iter().take(COMPLAINTS).map(|what| Violation { invariant, what }));
        };
        check("durability", &|found| durability::check(&told, &truth, found));
        check("register", &|found| register::check(&told, &truth, found));
        check("order", &|found| found.extend(order::check(&told.answers)));
        check("answers", &|found| answers::check(&told, &truth, found));
        check("compaction", &|found| compaction::check(&told, found));
        check("lease", &|found| lease::check(&told, &truth, &self.jumps.lock(), found));
        for watched in &*self.watched.lock() {
            check("watch", &|found| watch::check(watched, &told, &truth, found));
        }
        violations.extend(crate::panics::take().into_iter().map(|what| Violation { invariant: "panic", what }));
        let lasted = truth.steps.last_key_value().map_or(Duration::ZERO, |(_, step)| step.at);
        let (answers, revisions, entries) = (told.answers.len(), truth.revision(), truth.entries.len() as u64);
        drop((told, truth));
        let trace = self.trace.lock();
        Outcome {
            hash: trace.hash,
            trace: trace.lines.iter().cloned().collect(),
            violations,
            answers,
            revisions,
            entries,
            lasted,
        }
    }
}
