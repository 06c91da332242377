//! Schedulers are killed at random moments of a burst of pods that fill their nodes to the last millicore: every pod is
//! bound, each once, and no node holds more than it has.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kelson_wire::kube::{Cache, Delta, Gvr, Keyed, ObjectMeta, Reflector};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::world::{self, World};
use crate::audit::{self, Told};
use crate::poll;
use crate::program::Program;

/// Pods and kills in a run of all tests; `KELSON_TEST_PODS` and `KELSON_TEST_KILLS` set other numbers.
const PODS: usize = 2_000;
const KILLS: usize = 6;
/// Pods of 100m that fill a node.
const PODS_PER_NODE: usize = 20;
/// Longest that a scheduler may take to lead and bind the next pod, in seconds.
const TAKE_OVER: u64 = 60;
/// Pause between two looks at whether the schedulers live.
const TEND: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
}

impl Keyed for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// The schedulers: one leads, the other waits for it to die.
struct Pair<'a> {
    world: &'a World,
    programs: [Program; 2],
}

impl Pair<'_> {
    /// Which of the two holds the lease.
    fn leader(&self) -> Result<usize, String> {
        let lease = self.world.client.get::<Value>(&Gvr::LEASES, "kube-system", "kube-scheduler");
        let lease = self.world.runtime.block_on(lease).map_err(|error| error.to_string())?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_string();
        let held = |program: &Program| holder.ends_with(&format!("_{}", program.id()));
        self.programs.iter().position(held).ok_or(holder)
    }

    /// A scheduler ends when it loses its lease (the machine may be that busy); then another one is started.
    fn tend(&mut self) {
        for program in &mut self.programs {
            if program.exited().is_some() {
                *program = self.world.scheduler();
            }
        }
    }

    fn replace(&mut self, at: usize) {
        std::mem::replace(&mut self.programs[at], self.world.scheduler()).kill();
    }

    /// Returns at the moment at which so many pods are bound.
    fn wait_bound(&mut self, bound: &mut watch::Receiver<usize>, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(TAKE_OVER);
        let world = self.world;
        let mut reached = |within| {
            let wait = bound.wait_for(|now| *now >= count);
            world.runtime.block_on(async { tokio::time::timeout(within, wait).await }).is_ok()
        };
        while !reached(TEND) {
            assert!(Instant::now() < deadline, "{count} pods are not bound within {TAKE_OVER} s");
            self.tend();
        }
    }
}

#[test]
fn killing_the_scheduler_loses_and_doubles_nothing() {
    let pods: usize = setting("KELSON_TEST_PODS").unwrap_or(PODS).next_multiple_of(PODS_PER_NODE);
    let kills: usize = setting("KELSON_TEST_KILLS").unwrap_or(KILLS);
    let seed: u64 = setting("KELSON_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!(
        "replay: KELSON_TEST_SEED={seed} KELSON_TEST_PODS={pods} KELSON_TEST_KILLS={kills} cargo test --test all killing_the_scheduler"
    );
    let mut random = StdRng::seed_from_u64(seed);
    // Pods that there are before the last kill.
    let amid = pods - pods / 4;
    let mut moments: Vec<usize> = (0..kills).map(|_| random.random_range(0..amid)).collect();
    moments.sort_unstable();

    let world = World::start();
    let (client, runtime) = (world.client.clone(), &world.runtime);
    runtime.block_on(world::create_nodes(&client, pods / PODS_PER_NODE, "2"));
    let (count, mut bound) = watch::channel(0);
    let watching = runtime.spawn(Reflector::all(client.clone(), Gvr::PODS).run(Cache::<Pod>::new(), {
        move |deltas: Vec<Delta<Pod>>| {
            let is_bound = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| !pod.spec.node_name.is_empty());
            let more = deltas.iter().filter(|delta| is_bound(&delta.new) && !is_bound(&delta.old)).count();
            count.send_modify(|count| *count += more);
        }
    }));
    let create = async move |numbers: Range<usize>| {
        world::each(numbers.len(), |number| {
            let client = client.clone();
            let pod = world::pod(&format!("burst-{}", numbers.start + number), json!({}), json!({}));
            async move { client.create::<IgnoredAny>(&Gvr::PODS, "default", &pod).await.map(|_| ()) }
        })
        .await;
    };
    // Half of them wait, so that batches are large and much is on its way at each moment. Others come while schedulers
    // die; the last ones when nobody does, so that the last places go at full speed.
    runtime.block_on(create(0..pods / 2));
    let mut pair = Pair { world: &world, programs: [world.scheduler(), world.scheduler()] };
    let creating = runtime.spawn({
        let create = create.clone();
        async move { create(pods / 2..amid).await }
    });
    let mut struck = Vec::new();
    for moment in moments {
        let leader = poll::until("a scheduler leads", TAKE_OVER, || {
            pair.tend();
            pair.leader()
        });
        pair.wait_bound(&mut bound, moment);
        pair.replace(leader);
        struck.push(*bound.borrow());
        if random.random_ratio(1, 4) {
            // Nobody is left to take over at once.
            pair.replace(1 - leader);
        }
    }
    runtime.block_on(creating).expect("every pod is created");
    runtime.block_on(create(amid..pods));
    pair.wait_bound(&mut bound, pods);
    let told = runtime.block_on(audit::replay(&world.server.url()));
    watching.abort();
    eprintln!("the leader was killed with {struck:?} of {pods} pods bound");
    assert_eq!(told, Ok(Told { pods, bound: pods }));
    let met = struck.iter().filter(|bound| **bound < amid).count();
    assert!(2 * met >= kills, "{met} of {kills} kills met a burst that was under way: {struck:?}");
}
