//! The core against upstream's own plugin code, on snapshots of random clusters.
//!
//! `.ci/peers` builds the program, of `tests/upstream`, where `KELSON_TEST_PEERS` says; without it the test says that it is
//! skipped.

mod gear;
mod random;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use gear::Gear;
use kelson_sched::{
    Amount, ClaimUse, Class, Cluster, Decision, DeviceClass, DeviceRule, Filter, Pod, PodId, PodTemplate, Profile,
    Requirement, ResourceClaim, Scores, Tenure, Toleration, TolerationOperator, Verdict, VolumePlan, Weights,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use random::disks::Disks;
use serde::Deserialize;
use serde_json::{Value, json};

const SNAPSHOTS: u64 = 300;

/// What is said of one pod.
#[derive(Debug, Default, Deserialize, PartialEq)]
struct Answer {
    /// What each feasible node scores, weighted, by plugin. A score of 0 is left out.
    feasible: BTreeMap<String, BTreeMap<String, i64>>,
    /// Why the other nodes do not take it.
    rejected: BTreeMap<String, Vec<String>>,
    /// What the claims that have no devices are given on each feasible node, by claim; ours only where the pod is placed.
    devices: BTreeMap<String, BTreeMap<String, Value>>,
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
fn template(rng: &mut StdRng, roomy: bool, claims: bool) -> Arc<PodTemplate> {
    loop {
        let mut template = random::template(rng, roomy);
        while claims && template.claims.is_empty() {
            gear::equip(rng, &mut template);
        }
        // Kube-scheduler gives a claim that is named twice devices twice.
        let mut names = BTreeSet::new();
        template.claims.retain(|one| match one {
            ClaimUse::Named(name) | ClaimUse::Generated { claim: name, .. } => names.insert(name.clone()),
            ClaimUse::Awaited { .. } => true,
        });
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

/// Devices and claims on which kube-scheduler and the core are to agree.
fn devices(rng: &mut StdRng) -> Gear {
    let mut gear = Gear::random(rng);
    for device in gear.slices.values_mut().flat_map(|slice| &mut slice.devices) {
        device.unsupported = false;
    }
    for claim in gear.claims.values_mut() {
        // Kube-scheduler compares a device with one of each other request.
        let one_each = |claim: &ResourceClaim| {
            claim.requests.iter().flat_map(|one| &one.choices).all(|choice| choice.amount == Amount::Exactly(1))
        };
        if !one_each(claim) {
            claim.constraints.retain(|one| !matches!(one.rule, DeviceRule::Distinct(_)));
        }
        for choice in claim.requests.iter_mut().flat_map(|one| &mut one.choices) {
            match rng.random_range(0..30) {
                0 => choice.selectors.push("must model=big".into()),
                1 => choice.class = "must".into(),
                _ => {}
            }
        }
        if rng.random_bool(0.02) {
            claim.requests[0].choices.clear();
        }
    }
    gear.classes.insert("must".into(), DeviceClass { selectors: vec!["must model=small".into()] });
    gear
}

struct Snapshot {
    value: Value,
    /// What the core says of it.
    answer: Answer,
    /// Where it puts the pod.
    choice: Option<String>,
    /// Nodes that take the pod with its claims, and that do not because of them.
    claims: [usize; 2],
}

fn snapshot(seed: u64) -> Snapshot {
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
    let mut gear = devices(&mut rng);
    gear.tell(&mut cluster);
    let mut objects = wire::disks(&disks);
    for name in ["shop", "bank", "farm"] {
        let labels = vec![("team".into(), random::pick(&mut rng, &["a", "b"]).into())];
        objects.push(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": wire::pairs(&labels) } }));
        cluster.set_namespace(&name.into(), Some(labels));
    }
    let templates: Vec<Arc<PodTemplate>> = (0..8).map(|at| template(&mut rng, roomy, at < 3)).collect();
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
            for (claim, allocation) in cluster.device_plan(PodId(id)).cloned().unwrap_or_default() {
                let key = (template.namespace.clone(), claim);
                let claim = gear.claims.get_mut(&key).expect("it was given devices");
                claim.allocation = Some(allocation);
                cluster.set_resource_claim(&key.0, &key.1, Some(claim.clone()));
            }
            let terminating = rng.random_bool(0.1);
            cluster.add_pod(PodId(id), &name, &template, Tenure { terminating, ..Tenure::default() });
            pods.push(wire::pod(&format!("pod-{id}"), &template, Some(&name), terminating));
        }
    }
    objects.extend(wire::gear(&gear));
    let with_claims = rng.random_bool(0.8);
    let mut asked = template(&mut rng, roomy, with_claims);
    if rng.random_bool(0.5) {
        // Nothing but its claims matters.
        let PodTemplate { namespace, claims, uid, .. } = (*asked).clone();
        let operator = TolerationOperator::Exists;
        let any = Toleration { key: String::new(), operator, value: String::new(), effect: None };
        let images = vec!["none".into()];
        asked =
            Arc::new(PodTemplate { namespace, claims, uid, images, tolerations: vec![any], ..PodTemplate::default() });
    }
    let class = cluster.class(&asked);
    let (mut answer, refused) = answer(&cluster, &class, &profile.weights);
    let claims = if asked.claims.is_empty() { [0, 0] } else { [answer.feasible.len(), refused] };
    let id = PodId(u64::MAX);
    let choice = match cluster.schedule(&[Pod { id, class, priority: 0 }])[0] {
        Decision::Bound(node) => Some(cluster.node_name(node).to_string()),
        Decision::Unschedulable(_) => None,
    };
    if let (Some(node), Some(plan)) = (&choice, cluster.device_plan(id).filter(|_| !asked.claims.is_empty())) {
        let given = plan.iter().map(|(claim, given)| (claim.to_string(), wire::allocation(given)));
        answer.devices.insert(node.clone(), given.collect());
    }
    let value = json!({
        "nodes": nodes.iter().map(wire::node).collect::<Vec<_>>(),
        "pods": pods,
        "objects": objects,
        "configuration": configuration(&profile),
        "pod": wire::pod("web-0", &asked, None, false),
    });
    Snapshot { value, answer, choice, claims }
}

/// What the core says, and how many nodes it refuses because of claims.
fn answer(cluster: &Cluster, class: &Class, weights: &Weights) -> (Answer, usize) {
    let mut answer = Answer::default();
    let mut by_claims = 0;
    if let Some(refusal) = cluster.diagnose(class).refusal {
        answer.refused = refusal.to_string();
        return (answer, by_claims);
    }
    for (at, verdict) in cluster.explain(class) {
        let name = cluster.node_name(at).to_string();
        match verdict {
            Verdict::Feasible(scores) => {
                answer.feasible.insert(name, weighted(&scores, weights));
            }
            Verdict::Rejected(reasons) => {
                by_claims += usize::from(reasons.iter().any(|one| one.filter() == Filter::DynamicResources));
                answer.rejected.insert(name, reasons.iter().map(ToString::to_string).collect());
            }
        }
    }
    (answer, by_claims)
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
        ("DynamicResources", scores.dynamic_resources * weights.dynamic_resources),
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
    let lines: Vec<String> = snapshots.iter().map(|snapshot| snapshot.value.to_string()).collect();
    let writer = std::thread::spawn(move || lines.iter().try_for_each(|line| writeln!(stdin, "{line}")));
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{}", output.status);
    writer.join().expect("no panic").expect("everything was read");
    let text = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<&str> = text.lines().collect();
    assert_eq!(answers.len(), snapshots.len());
    let (mut feasible, mut rejected, mut claims) = (0, 0, [0, 0]);
    for (seed, (line, snapshot)) in answers.iter().zip(snapshots).enumerate() {
        let Snapshot { value, answer: mut ours, choice, claims: of_claims } = snapshot;
        let mut theirs: Answer = serde_json::from_str(line).expect("an answer");
        feasible += ours.feasible.len();
        rejected += ours.rejected.len();
        claims = [claims[0] + of_claims[0], claims[1] + of_claims[1]];
        theirs.devices.retain(|node, _| choice.as_ref() == Some(node));
        for answer in [&mut ours, &mut theirs] {
            answer.feasible.values_mut().for_each(|scores| scores.retain(|_, score| *score != 0));
        }
        assert_eq!(ours, theirs, "snapshot {seed}: {value}");
        let total = |node: &String| theirs.feasible[node].values().sum::<i64>();
        let best = theirs.feasible.keys().map(total).max();
        assert_eq!(choice.as_ref().map(total), best, "snapshot {seed}: {choice:?} is not the best");
    }
    assert!(feasible > 100 && rejected > 100, "{feasible} nodes feasible and {rejected} not: too few to prove much");
    let [allowed, refused] = claims;
    assert!(allowed > 100 && refused > 100, "claims allow {allowed} nodes and refuse {refused}: too few to prove much");
}
