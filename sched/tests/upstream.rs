//! The core against upstream's own plugin code, on snapshots of random clusters.
//!
//! `.ci/peers` builds the program, of `tests/upstream`, where `KELSON_TEST_PEERS` says; without it the test says that it is
//! skipped.

mod random;
mod wire;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kelson_sched::{
    Class, Cluster, Decision, Pod, PodId, PodTemplate, Profile, Requirement, Scores, Tenure, Verdict, VolumePlan,
    Weights,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use random::disks::Disks;
use serde::Deserialize;
use serde_json::{Value, json};

const SNAPSHOTS: u64 = 100;
/// What is said of one pod.
#[derive(Debug, Default, Deserialize, PartialEq)]
struct Answer {
    /// What each feasible node scores, weighted, by plugin. A score of 0 is left out.
    feasible: BTreeMap<String, BTreeMap<String, i64>>,
    /// Why the other nodes do not take it.
    rejected: BTreeMap<String, Vec<String>>,
    /// Why no node was looked at.
    refused: String,
}

fn configuration(profile: &Profile) -> Value {
    json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "profiles": [wire::profile(profile)],
    })
}

/// The API refuses numbers that are none and fields with several values, and cluster defaults are not the pod's to write down.
fn template(rng: &mut StdRng, roomy: bool) -> Arc<PodTemplate> {
    loop {
        let mut template = random::template(rng, roomy);
        template.spread_defaulted = false;
        template.profile = 0;
        // Which features a pod needs is read from its other fields.
        template.features.clear();
        let terms = || template.required.iter().flatten().chain(template.preferred.iter().map(|(_, term)| term));
        let number = |one: &Requirement| one.values.iter().all(|value| &**value != "x");
        let valid = template.preferred.iter().all(|(weight, _)| *weight > 0)
            && terms().flat_map(|term| &term.expressions).all(number)
            && terms().flat_map(|term| &term.fields).all(|field| field.values.len() == 1);
        if valid {
            return Arc::new(template);
        }
    }
}

/// A snapshot, what the core says of it, and where it puts the pod.
fn snapshot(seed: u64) -> (Value, Answer, Option<String>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let roomy = rng.random_bool(0.6);
    // Every second snapshot has a profile of its own.
    let profile = if seed.is_multiple_of(2) { Profile::default() } else { random::profile::profile(&mut rng) };
    let mut cluster = Cluster::with_profiles(1, seed, vec![profile.clone()]);
    let mut nodes = Vec::new();
    for at in 0..rng.random_range(3..14) {
        let mut spec = random::node(&mut rng, &format!("node-{at}"));
        if roomy {
            (spec.pods, spec.unschedulable) = (110, false);
            (spec.allocatable.milli_cpu, spec.allocatable.memory) = (16_000, 64 << 30);
        }
        cluster.upsert_node(&spec);
        nodes.push(spec);
    }
    let disks = Disks::random(&mut rng);
    disks.tell(&mut cluster);
    let mut objects = wire::disks(&disks);
    for name in ["shop", "bank", "farm"] {
        let labels = vec![("team".into(), random::pick(&mut rng, &["a", "b"]).into())];
        objects.push(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": wire::pairs(&labels) } }));
        cluster.set_namespace(&name.into(), Some(labels));
    }
    let templates: Vec<Arc<PodTemplate>> = (0..8).map(|_| template(&mut rng, roomy)).collect();
    let mut pods = Vec::new();
    for id in 0..rng.random_range(5..60u64) {
        let template = random::pick(&mut rng, &templates);
        let class = cluster.class(&template);
        if let Decision::Bound(at) = cluster.schedule(&[Pod { id: PodId(id), class, priority: 0 }])[0] {
            let name = cluster.node_name(at).clone();
            // What it was promised is not in the snapshot.
            if cluster.volume_plan(PodId(id)).is_some_and(|plan| *plan != VolumePlan::default()) {
                cluster.remove_pod(PodId(id));
                continue;
            }
            let terminating = rng.random_bool(0.1);
            cluster.add_pod(PodId(id), &name, &template, Tenure { terminating, ..Tenure::default() });
            pods.push(wire::pod(&format!("pod-{id}"), &template, Some(&name), terminating));
        }
    }
    let asked = template(&mut rng, roomy);
    let class = cluster.class(&asked);
    let answer = answer(&cluster, &class, &profile.weights);
    let choice = match cluster.schedule(&[Pod { id: PodId(u64::MAX), class, priority: 0 }])[0] {
        Decision::Bound(node) => Some(cluster.node_name(node).to_string()),
        Decision::Unschedulable(_) => None,
    };
    let snapshot = json!({
        "nodes": nodes.iter().map(wire::node).collect::<Vec<_>>(),
        "pods": pods,
        "objects": objects,
        "configuration": configuration(&profile),
        "pod": wire::pod("incoming", &asked, None, false),
    });
    (snapshot, answer, choice)
}

fn answer(cluster: &Cluster, class: &Class, weights: &Weights) -> Answer {
    let mut answer = Answer::default();
    if let Some(refusal) = cluster.diagnose(class).refusal {
        answer.refused = refusal.to_string();
        return answer;
    }
    for (at, verdict) in cluster.explain(class) {
        let name = cluster.node_name(at).to_string();
        match verdict {
            Verdict::Feasible(scores) => {
                answer.feasible.insert(name, weighted(&scores, weights));
            }
            Verdict::Rejected(reasons) => {
                answer.rejected.insert(name, reasons.iter().map(ToString::to_string).collect());
            }
        }
    }
    answer
}

/// By upstream's names of the plugins.
fn weighted(scores: &Scores, weights: &Weights) -> BTreeMap<String, i64> {
    let values = [
        ("NodeResourcesFit", scores.fit * weights.fit),
        ("NodeResourcesBalancedAllocation", scores.balanced_allocation * weights.balanced_allocation),
        ("ImageLocality", scores.image_locality * weights.image_locality),
        ("TaintToleration", scores.taint_toleration * weights.taint_toleration),
        ("NodeAffinity", scores.node_affinity * weights.node_affinity),
        ("PodTopologySpread", scores.topology_spread * weights.topology_spread),
        ("InterPodAffinity", scores.pod_affinity * weights.pod_affinity),
    ];
    values.map(|(name, value)| (name.to_string(), value)).into()
}

/// The program, if there is one.
fn program() -> Option<PathBuf> {
    let peers = std::env::var_os("KELSON_TEST_PEERS").filter(|path| !path.is_empty())?;
    Some(PathBuf::from(peers).join("scheduler-plugins")).filter(|path| path.exists())
}

#[test]
fn upstream_plugins_find_the_same_nodes_and_scores() {
    let Some(program) = program() else {
        // Straight to the terminal: the test harness hides what a passing test prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: upstream's scheduler plugins (make peers builds them)");
        return;
    };
    let snapshots: Vec<_> = (0..SNAPSHOTS).map(snapshot).collect();
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let lines: Vec<String> = snapshots.iter().map(|(snapshot, ..)| snapshot.to_string()).collect();
    let writer = std::thread::spawn(move || lines.iter().try_for_each(|line| writeln!(stdin, "{line}")));
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{}", output.status);
    writer.join().expect("no panic").expect("everything was read");
    let text = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<&str> = text.lines().collect();
    assert_eq!(answers.len(), snapshots.len());
    let (mut feasible, mut rejected) = (0, 0);
    for (seed, (line, (snapshot, mut ours, choice))) in answers.iter().zip(snapshots).enumerate() {
        let mut theirs: Answer = serde_json::from_str(line).expect("an answer");
        feasible += ours.feasible.len();
        rejected += ours.rejected.len();
        for answer in [&mut ours, &mut theirs] {
            answer.feasible.values_mut().for_each(|scores| scores.retain(|_, score| *score != 0));
        }
        assert_eq!(ours, theirs, "snapshot {seed}: {snapshot}");
        let total = |node: &String| theirs.feasible[node].values().sum::<i64>();
        let best = theirs.feasible.keys().map(total).max();
        assert_eq!(choice.as_ref().map(total), best, "snapshot {seed}: {choice:?} is not the best");
    }
    assert!(feasible > 100 && rejected > 100, "{feasible} nodes feasible and {rejected} not: too few to prove much");
}
