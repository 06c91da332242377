//! Rollouts played without an API: plans are applied to a small model of ReplicaSets whose pods come up in any order.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::plan::{Plan, plan};
use super::{revision, set_body};
use crate::view::{Deployment, ReplicaSet, condition};

struct Model {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    events: Vec<String>,
    now: i64,
}

fn deployment(replicas: i64, surge: &str, unavailable: &str) -> Deployment {
    let number = |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
    let text = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"image": "v1"}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": number(surge), "maxUnavailable": number(unavailable)}},
        },
    });
    serde_json::from_str(&text.to_string()).unwrap()
}

impl Model {
    fn new(deployment: Deployment) -> Model {
        Model { deployment, sets: Vec::new(), events: Vec::new(), now: 1_000_000 }
    }

    fn image(&mut self, image: &str) {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"image": image}});
        self.deployment.spec.template = (&template).into();
        self.edited();
    }

    fn edited(&mut self) {
        *self.deployment.metadata.generation.get_or_insert(0) += 1;
    }

    /// One run of the controller. Whether it changed anything.
    fn step(&mut self) -> bool {
        let sets = self.sets.iter().cloned().map(Arc::new).collect();
        let live = |set: &ReplicaSet| set.status.replicas > 0;
        let Plan { create, members, mut remove, revision, status, events, .. } =
            plan(&self.deployment, sets, &live, self.now);
        let mut changed = status != self.deployment.status || create.is_some() || !remove.is_empty();
        for member in members.iter().filter(|member| member.is_changed()) {
            changed = true;
            let set = self.sets.iter_mut().find(|set| set.metadata.name == member.set.metadata.name).unwrap();
            set.spec.replicas = Some(member.replicas);
            set.metadata.annotations.extend(member.annotations.clone());
        }
        if let Some(new) = create {
            let mut set: ReplicaSet = serde_json::from_str(&set_body(&self.deployment, &new).to_string()).unwrap();
            set.metadata.creation_timestamp = Some(crate::view::rfc3339(self.now));
            self.sets.push(set);
        }
        remove.sort_unstable_by(|a, b| b.cmp(a));
        for at in remove {
            let name = members[at].set.metadata.name.clone();
            self.sets.retain(|set| set.metadata.name != name);
        }
        if let Some(revision) = revision {
            changed = true;
            self.deployment.metadata.annotations.insert(revision::REVISION.into(), revision);
        }
        self.deployment.status = status;
        self.events.extend(events);
        self.now += 1;
        changed
    }

    /// The ReplicaSet controller and the kubelets: up to `pods` pods start or stop.
    fn run_pods(&mut self, mut pods: i64) {
        for set in &mut self.sets {
            let change = (set.replicas() - set.status.replicas).clamp(-pods, pods);
            pods -= change.abs();
            set.status.replicas += change;
            set.status.available_replicas = (set.status.available_replicas + change).clamp(0, set.status.replicas);
            set.status.ready_replicas = set.status.available_replicas;
        }
    }

    fn settle(&mut self) {
        for _ in 0..500 {
            let stepped = self.step();
            self.run_pods(1000);
            if !stepped && !self.step() {
                return;
            }
        }
        panic!("does not settle");
    }

    fn total(&self) -> i64 {
        self.sets.iter().map(ReplicaSet::replicas).sum()
    }

    fn available(&self) -> i64 {
        self.sets.iter().map(|set| set.status.available_replicas).sum()
    }

    fn reason(&self, kind: &str) -> &str {
        condition(&self.deployment.status.conditions, kind).map_or("", |condition| condition.reason.as_str())
    }

    fn revisions(&self) -> Vec<(&str, i64)> {
        let of = |set: &ReplicaSet| set.metadata.annotations[revision::REVISION].parse::<i64>().unwrap();
        self.sets.iter().map(|set| (&*set.metadata.name, of(set))).collect()
    }
}

#[test]
fn rolls_out_rolls_back_and_keeps_history() {
    let mut model = Model::new(deployment(10, "25%", "25%"));
    model.settle();
    assert_eq!(model.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(model.reason("Available"), "MinimumReplicasAvailable");
    assert_eq!(model.events, [format!("Scaled up replica set {} from 0 to 10", model.sets[0].metadata.name)]);
    let first = model.sets[0].metadata.name.to_string();
    for image in ["v2", "v3", "v4"] {
        model.image(image);
        model.settle();
        assert_eq!((model.total(), model.deployment.status.updated_replicas), (10, 10));
    }
    // Limit 2: of the three old ones the first is gone.
    assert_eq!(model.sets.len(), 3);
    assert!(model.sets.iter().all(|set| *set.metadata.name != *first));
    let sets = model.sets.len();
    let second = model.sets[0].metadata.name.to_string();
    model.image("v2");
    model.settle();
    assert_eq!(model.sets.len(), sets, "the old set is used again");
    let (name, newest) = model.revisions()[0];
    assert_eq!((name, newest), (second.as_str(), 5));
    assert_eq!(model.deployment.metadata.annotations[revision::REVISION], "5");
    assert_eq!(model.sets[0].metadata.annotations["deployment.kubernetes.io/revision-history"], "2");
    assert_eq!(model.sets[0].replicas(), 10);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut model = Model::new(deployment(4, "0", "1"));
    model.deployment.spec.strategy.kind = "Recreate".into();
    model.settle();
    model.image("v2");
    model.step();
    assert_eq!((model.sets.len(), model.total()), (1, 0));
    model.run_pods(3);
    model.step();
    assert_eq!(model.sets.len(), 1, "one old pod is still there");
    model.settle();
    assert_eq!((model.sets.len(), model.sets[1].replicas()), (2, 4));
}

#[test]
fn a_paused_rollout_scales_in_proportion() {
    let mut model = Model::new(deployment(10, "3", "2"));
    model.settle();
    model.image("v2");
    // Until nothing moves without new pods becoming available.
    for _ in 0..5 {
        model.step();
    }
    let sizes = |model: &Model| model.sets.iter().map(ReplicaSet::replicas).collect::<Vec<_>>();
    assert_eq!(sizes(&model), [8, 5]);
    model.deployment.spec.paused = true;
    model.deployment.spec.replicas = Some(30);
    model.edited();
    model.step();
    // 33 allowed in all: 8 * 33 / 13 is about 20, the rest is the new set's.
    assert_eq!(sizes(&model), [20, 13]);
    assert_eq!(model.reason("Progressing"), "DeploymentPaused");
    model.deployment.spec.paused = false;
    model.edited();
    model.settle();
    assert_eq!(sizes(&model), [0, 30]);
    model.deployment.spec.replicas = Some(0);
    model.edited();
    model.settle();
    assert_eq!(sizes(&model), [0, 0]);
}

#[test]
fn a_stuck_rollout_exceeds_its_deadline() {
    let mut model = Model::new(deployment(3, "1", "0"));
    model.settle();
    model.image("bad");
    model.step();
    model.step();
    model.now += 601;
    model.step();
    assert_eq!(model.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(model.reason("Available"), "MinimumReplicasAvailable");
}

#[test]
fn fences_round_as_documented() {
    assert_eq!(deployment(10, "25%", "25%").fences(), (3, 2));
    assert_eq!(deployment(1, "25%", "25%").fences(), (1, 0));
    assert_eq!(deployment(3, "0", "0%").fences(), (0, 1));
    assert_eq!(deployment(3, "0", "5").fences(), (0, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever order pods come up in: never more than the surge, never fewer available than allowed, and it ends.
    #[test]
    fn a_rolling_update_stays_within_its_fences(
        replicas in 1i64..40, surge in 0i64..12, unavailable in 0i64..12, pace in prop::collection::vec(0i64..6, 1..200),
    ) {
        let mut model = Model::new(deployment(replicas, &surge.to_string(), &unavailable.to_string()));
        model.settle();
        let (surge, unavailable) = model.deployment.fences();
        model.image("v2");
        for pods in pace {
            model.step();
            prop_assert!(model.total() <= replicas + surge, "{} of {replicas} + {surge}", model.total());
            model.run_pods(pods);
            prop_assert!(model.available() >= replicas - unavailable, "{}", model.available());
        }
        model.settle();
        prop_assert_eq!(model.sets[1].replicas(), replicas);
        prop_assert_eq!(model.total(), replicas);
    }
}
