//! Members of a cluster are killed, paused, cut off from each other and slowed down at random moments under a load of
//! everything that a store can do: nothing acknowledged is lost, every key is linearizable whichever member is asked,
//! watches go on at another member without a gap or a repetition, and leases live as long as was promised.

use std::fmt;
use std::time::{Duration, Instant};

use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kelson_wire::pb::etcdserverpb::{DeleteRangeRequest, StatusRequest};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;

use super::run::{Run, setting};
use crate::group::Group;
use crate::network::Network;
use crate::poll;

/// Rounds in a run of all tests; `KELSON_TEST_ROUNDS` sets another number.
const ROUNDS: u64 = 8;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// A fault lasts at most so long: over two election timeouts.
const LASTS: Duration = Duration::from_millis(2_500);
/// Longest that anything may take after a fault is over, in seconds.
const HEALS: u64 = 60;

#[derive(Debug)]
enum Fault {
    Kill(Vec<usize>),
    Pause(Vec<usize>),
    /// These have no way to the others, in one direction or in both.
    Part(Vec<(usize, usize)>),
    Slow(Vec<usize>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(members) => write!(f, "kill {members:?}"),
            Fault::Pause(members) => write!(f, "pause {members:?}"),
            Fault::Part(ways) => write!(f, "cut {ways:?}"),
            Fault::Slow(members) => write!(f, "slow {members:?}"),
        }
    }
}

impl Fault {
    /// Mostly of as many members as can be spared, now and then of more; often of the leader.
    fn draw(random: &mut StdRng, members: usize, leader: Option<usize>, has_network: bool) -> Fault {
        let mut all: Vec<usize> = (0..members).collect();
        all.shuffle(random);
        if let (Some(leader), true) = (leader, random.random_bool(0.5)) {
            all.retain(|at| *at != leader);
            all.insert(0, leader);
        }
        let spared = (members - 1) / 2;
        let count = match random.random_range(0..6) {
            0 => members,
            1 => spared + 1,
            _ => random.random_range(1..=spared),
        };
        let some = all[..count].to_vec();
        match random.random_range(0..if has_network { 6 } else { 2 }) {
            0 => Fault::Kill(some),
            1 => Fault::Pause(some),
            2 => Fault::Slow(some),
            kind => {
                // All of them: everybody is alone.
                let apart = |one: usize, other: usize| {
                    one != other && (count == members || some.contains(&one) != some.contains(&other))
                };
                let ways = (0..members).flat_map(|one| (0..members).map(move |other| (one, other)));
                let ways = ways.filter(|(one, other)| apart(*one, *other));
                // One way only: what they say is not heard, or they do not hear.
                let ways = ways.filter(|(one, _)| match kind {
                    3 => some.contains(one),
                    4 => count == members || !some.contains(one),
                    _ => true,
                });
                Fault::Part(ways.collect())
            }
        }
    }

    fn begin(&self, group: &mut Group) {
        match self {
            Fault::Kill(members) => members.iter().for_each(|at| group.kill(*at)),
            Fault::Pause(members) => members.iter().for_each(|at| group.signal(*at, libc::SIGSTOP)),
            Fault::Part(ways) => ways.iter().for_each(|(one, other)| network(group).cut(*one, *other)),
            Fault::Slow(members) => members.iter().for_each(|at| network(group).slow(*at)),
        }
    }

    /// Heals it; returns the moment from which nothing keeps the members apart.
    fn end(&self, group: &mut Group) -> Instant {
        match self {
            Fault::Kill(members) => {
                members.iter().for_each(|at| group.begin(*at, "new"));
                // Each must have read its log before it can take part.
                members.iter().for_each(|at| group.serves_peers(*at));
            }
            Fault::Pause(members) => members.iter().for_each(|at| group.signal(*at, libc::SIGCONT)),
            Fault::Part(_) | Fault::Slow(_) => network(group).heal(),
        }
        Instant::now()
    }
}

fn network(group: &Group) -> &Network {
    group.network.as_ref().expect("drawn only where there is one")
}

#[test]
fn whatever_happens_to_some_members_all_of_them_are_one_store() {
    let rounds = setting("KELSON_TEST_ROUNDS").unwrap_or(ROUNDS);
    let seed = setting("KELSON_TEST_SEED").unwrap_or_else(rand::random);
    let count = setting("KELSON_TEST_MEMBERS").map_or(3, |count| (count as usize).clamp(3, NAMES.len()));
    eprintln!(
        "replay: KELSON_TEST_SEED={seed} KELSON_TEST_ROUNDS={rounds} KELSON_TEST_MEMBERS={count} cargo test --test all whatever_happens"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let mut group = Group::new(&NAMES[..count], Network::new(count));
    let urls: Vec<String> = group.members.iter().map(|member| member.client()).collect();
    let run = Run::new(urls.clone(), &mut random);
    group.start_all();
    run.begin(1);
    let mut waited = Vec::new();
    for round in 1..=rounds {
        poll::strike_after(Duration::from_millis(random.random_range(100..600)));
        let leader = run.block_on(leader(&urls));
        let fault = Fault::draw(&mut random, count, leader, group.network.is_some());
        fault.begin(&mut group);
        poll::strike_after(LASTS.mul_f64(random.random_range(0.05..1.0)));
        let healed = fault.end(&mut group);
        let first = run.block_on(available(&urls)).duration_since(healed);
        run.block_on(async {
            for url in &urls {
                available(std::slice::from_ref(url)).await;
            }
        });
        eprintln!(
            "round {round}: {fault}; leader {leader:?}; available {first:.2?} and all {:.2?} after it",
            healed.elapsed()
        );
        waited.push(first);
        run.check();
    }
    waited.sort_unstable();
    let median = waited[waited.len() / 2];
    run.judge(
        &format!(
            "{rounds} rounds with {count} members, available after {median:.2?} (median), {:.2?} (longest)",
            waited[waited.len() - 1]
        ),
        &urls[0],
    );
}

/// Place of the member that most name as the leader.
async fn leader(urls: &[String]) -> Option<usize> {
    let mut told = Vec::new();
    for url in urls {
        let channel = Channel::from_shared(url.clone()).expect("a URL").connect_lazy();
        let status = MaintenanceClient::new(channel).status(StatusRequest {}).await.ok()?.into_inner();
        told.push((status.header?.member_id, status.leader));
    }
    let leader =
        told.iter().map(|(_, leader)| *leader).max_by_key(|of| told.iter().filter(|(_, l)| l == of).count())?;
    told.iter().position(|(id, _)| *id == leader)
}

/// When one of these has carried out a write; one that changes nothing, so that no revision is made.
async fn available(urls: &[String]) -> Instant {
    let tries = urls.iter().map(|url| {
        let channel = Channel::from_shared(url.clone()).expect("a URL").connect_lazy();
        let nothing = DeleteRangeRequest { key: "no such key".into(), ..Default::default() };
        Box::pin(async move {
            while KvClient::new(channel.clone()).delete_range(nothing.clone()).await.is_err() {
                poll::pause(Duration::from_millis(10)).await;
            }
            Instant::now()
        })
    });
    let first = futures_util::future::select_all(tries);
    let (first, _, _) = tokio::time::timeout(Duration::from_secs(HEALS), first).await.expect("it is available again");
    first
}
