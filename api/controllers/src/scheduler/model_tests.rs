use kelson_sched::FitStrategy;

use super::*;

const CONFIRM: u64 = 30_000;

/// `rest` closes the spec and may add to the pod.
fn pod(uid: &str, rest: &str) -> Arc<PodView> {
    let json = format!(
        r#"{{"metadata":{{"name":"{uid}","namespace":"d","uid":"{uid}"}},"spec":{{"schedulerName":"default-scheduler",
            "containers":[{{"resources":{{"requests":{{"cpu":"600m"}}}}}}]{rest}}}"#
    );
    Arc::new(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")))
}

fn pending(uid: &str) -> Arc<PodView> {
    pod(uid, "}")
}

fn bound(uid: &str, node: &str) -> Arc<PodView> {
    pod(uid, &format!(r#","nodeName":"{node}"}}"#))
}

struct World {
    model: Model,
}

impl World {
    /// Nodes of one CPU: each has room for one of the pods.
    fn new(nodes: &[&str]) -> World {
        let mut world = World {
            model: Model::new(
                vec![ProfileSettings::default()],
                1,
                1,
                Waits::default(),
                Metrics::new(DEFAULT_SCHEDULER),
            ),
        };
        nodes.iter().for_each(|name| world.node(name, 0));
        world
    }

    fn node(&mut self, name: &str, now: u64) {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"status":{{"allocatable":{{"cpu":"1","memory":"1Gi","pods":"9"}}}}}}"#
        );
        let view: NodeView = serde_json::from_str(&json).unwrap();
        self.model.node_changed(&Delta { old: None, new: Some(Arc::new(view)) }, now);
    }

    fn see(&mut self, view: &Arc<PodView>, now: u64) {
        self.model.pod_changed(&Delta { old: None, new: Some(view.clone()) }, now);
    }

    fn gone(&mut self, view: &Arc<PodView>, now: u64) {
        self.model.pod_changed(&Delta { old: Some(view.clone()), new: None }, now);
    }

    fn schedule(&mut self, now: u64) -> Vec<Binding> {
        self.model.wake(now);
        self.model.schedule(100, now).bindings
    }

    fn end(&mut self, binding: &Binding, outcome: Outcome, now: u64) -> Option<Binding> {
        self.model.binding_ended(binding.clone(), outcome, now + CONFIRM, now)
    }
}

fn names(bindings: &[Binding]) -> Vec<&str> {
    bindings.iter().map(|binding| &*binding.view.meta().name).collect()
}

#[test]
fn a_binding_without_an_answer_keeps_its_place() {
    let mut world = World::new(&["n"]);
    world.see(&pending("a"), 0);
    world.see(&pending("b"), 0);
    let sent = world.schedule(0);
    assert_eq!(names(&sent), ["a"]);
    let again = world.end(&sent[0], Outcome::Unknown("timeout".into()), 1).expect("sent again");
    assert_eq!((&*again.node, again.unanswered), ("n", 1));
    assert!(world.model.awaits(&again));
    assert!(world.schedule(400_000).is_empty(), "the place may be taken");
    // It had been done after all.
    world.see(&bound("a", "n"), 400_000);
    assert!(!world.model.awaits(&again));
    assert!(world.end(&again, Outcome::Unknown("timeout".into()), 400_000).is_none());
    assert!(world.schedule(900_000).is_empty());
}

#[test]
fn a_refused_binding_frees_its_place_and_backs_off() {
    let mut world = World::new(&["n"]);
    world.see(&pending("a"), 0);
    let sent = world.schedule(0);
    assert!(world.end(&sent[0], Outcome::Refused("no".into()), 10).is_none());
    assert!(world.schedule(999).is_empty());
    assert_eq!(world.model.next_wake(), Some(1_000));
    assert_eq!(names(&world.schedule(1_000)), ["a"]);
    let report = world.model.next_report().expect("told");
    assert_eq!((report.reason, &*report.message), ("SchedulerError", "no"));
}

#[test]
fn a_pod_that_another_scheduler_bound_moves_there() {
    let mut world = World::new(&["n", "m"]);
    world.see(&pending("a"), 0);
    let sent = world.schedule(0);
    let other = if &*sent[0].node == "n" { "m" } else { "n" };
    let found = Outcome::Changed(Box::new(Arc::into_inner(bound("a", other)).unwrap()));
    assert!(world.end(&sent[0], found, 0).is_none());
    world.see(&pending("b"), 0);
    let sent_next = world.schedule(0);
    assert_eq!(sent_next[0].node, sent[0].node, "the place that was assumed is free");
}

#[test]
fn what_is_gone_or_has_ended_frees_its_place() {
    let mut world = World::new(&["n"]);
    world.see(&bound("a", "n"), 0);
    world.see(&pending("b"), 0);
    assert!(world.schedule(0).is_empty());
    world.gone(&bound("a", "n"), 2_000);
    let sent = world.schedule(2_000);
    assert_eq!(names(&sent), ["b"]);
    world.end(&sent[0], Outcome::Bound, 2_000);
    world.see(&pending("c"), 2_000);
    assert!(world.schedule(2_000).is_empty());
    world.see(&pod("b", r#","nodeName":"n"},"status":{"phase":"Succeeded"}"#), 9_000);
    assert_eq!(names(&world.schedule(9_000)), ["c"]);
}

#[test]
fn a_terminating_pod_counts_until_it_is_gone() {
    let mut world = World::new(&["n"]);
    let json = r#"{"metadata":{"name":"a","namespace":"d","uid":"a","deletionTimestamp":"2026-01-01T00:00:00Z"},
        "spec":{"nodeName":"n","containers":[{"resources":{"requests":{"cpu":"600m"}}}]}}"#;
    let terminating: Arc<PodView> = Arc::new(serde_json::from_str(json).unwrap());
    world.see(&terminating, 0);
    world.see(&pending("b"), 0);
    assert!(world.schedule(0).is_empty());
    world.gone(&terminating, 5_000);
    assert_eq!(names(&world.schedule(5_000)), ["b"]);
}

#[test]
fn a_watch_that_lags_behind_undoes_nothing() {
    let mut world = World::new(&["n"]);
    world.see(&pending("a"), 0);
    let sent = world.schedule(0);
    world.see(&pending("a"), 1);
    assert!(world.schedule(1).is_empty(), "its binding is under way");
    world.end(&sent[0], Outcome::Bound, 2);
    world.see(&pending("a"), 3);
    assert!(world.schedule(500_000).is_empty(), "it is bound");
}

#[test]
fn a_binding_that_the_watch_never_shows_is_asked_about() {
    let mut world = World::new(&["n"]);
    world.see(&pending("a"), 0);
    let sent = world.schedule(0);
    world.end(&sent[0], Outcome::Bound, 0);
    assert_eq!(world.model.next_wake(), Some(CONFIRM));
    assert!(world.model.overdue(0, CONFIRM - 1).is_empty());
    let asked = world.model.overdue(2 * CONFIRM, CONFIRM);
    assert_eq!(names(&asked), ["a"]);
    // The API lost it (restored from a backup): it is placed anew.
    world.end(&asked[0], Outcome::Changed(Box::new(Arc::into_inner(pending("a")).unwrap())), CONFIRM);
    assert_eq!(names(&world.schedule(CONFIRM)), ["a"]);
    world.see(&bound("a", "n"), CONFIRM);
    assert!(world.model.overdue(0, 900_000).is_empty(), "a confirmed one is not asked about");
    assert_eq!(world.model.next_wake(), None);
}

#[test]
fn another_pod_of_the_same_name_is_another_pod() {
    let mut world = World::new(&["n"]);
    let (old, new) = (bound("a", "n"), pending("b"));
    world.see(&old, 0);
    world.model.pod_changed(&Delta { old: Some(old), new: Some(new) }, 0);
    assert_eq!(names(&world.schedule(0)), ["b"]);
}

#[test]
fn a_pod_is_reported_once_per_reason() {
    let mut world = World::new(&[]);
    world.see(&pending("a"), 0);
    world.schedule(0);
    let first = world.model.next_report().expect("told");
    assert_eq!(&*first.message, "no nodes available to schedule pods");
    world.see(&bound("x", "n"), 1_000);
    world.node("n", 1_000);
    world.schedule(1_000);
    let second = world.model.next_report().expect("told");
    assert_eq!(
        &*second.message,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for \
         incoming pod."
    );
    world.schedule(400_000);
    assert!(world.model.next_report().is_none(), "the same reason again");
    world.model.report_lost(second.id);
    world.schedule(800_000);
    assert!(world.model.next_report().is_some());
    // After a restart the condition itself says it.
    let told = r#"},"status":{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"no nodes available to schedule pods"}]}"#;
    let mut world = World::new(&[]);
    world.see(&pod("a", told), 0);
    world.schedule(0);
    assert!(world.model.next_report().is_none());
}

#[test]
fn only_pods_that_are_ours_and_ready_are_placed() {
    let mut world = World::new(&["n", "m"]);
    let other = r#"{"metadata":{"name":"o","uid":"o"},"spec":{"schedulerName":"other"}}"#;
    world.see(&Arc::new(serde_json::from_str(other).unwrap()), 0);
    let gated = pod("g", r#","schedulingGates":[{"name":"wait"}]}"#);
    world.see(&gated, 0);
    let claim = pod("v", r#","volumes":[{"persistentVolumeClaim":{"claimName":"data"}}]}"#);
    world.see(&claim, 0);
    assert!(world.schedule(0).is_empty());
    let report = world.model.next_report().expect("told");
    assert_eq!(
        (&*report.view.meta().name, &*report.message),
        (
            "v",
            "0/2 nodes are available: persistentvolumeclaim \"data\" not found. preemption: 0/2 nodes are available: 2 \
             Preemption is not helpful for scheduling."
        )
    );
    world.see(&pending("g"), 0);
    assert_eq!(names(&world.schedule(0)), ["g"]);
}

fn ranked(uid: &str, priority: i32, rest: &str) -> Arc<PodView> {
    pod(uid, &format!(r#","priority":{priority}{rest}"#))
}

#[test]
fn a_pod_of_higher_priority_makes_room_for_itself() {
    let mut world = World::new(&["n"]);
    world.see(&ranked("low", 1, r#","nodeName":"n"}"#), 0);
    world.see(&ranked("never", 9, r#","preemptionPolicy":"Never"}"#), 0);
    assert!(world.schedule(0).is_empty() && world.model.next_eviction().is_none());
    world.see(&ranked("high", 10, "}"), 0);
    assert!(world.schedule(0).is_empty(), "the room is not there yet");
    let eviction = world.model.next_eviction().expect("the lower one goes");
    assert_eq!((&*eviction.victim.meta().name, &*eviction.preemptor, &*eviction.node), ("low", "high", "n"));
    let nominated: Vec<_> = std::iter::from_fn(|| world.model.next_report())
        .filter_map(|report| Some((report.view.meta().name.to_string(), report.nominated?.to_string())))
        .collect();
    assert_eq!(nominated, [("high".to_string(), "n".to_string())]);
    world.schedule(400_000);
    assert!(world.model.next_eviction().is_none(), "it is on its way");
    world.see(&ranked("middle", 5, "}"), 400_000);
    world.gone(&ranked("low", 1, r#","nodeName":"n"}"#), 500_000);
    assert_eq!(names(&world.schedule(500_000)), ["high"], "the room is kept for it");
}

#[test]
fn an_eviction_that_failed_is_tried_again() {
    let mut world = World::new(&["n"]);
    world.see(&ranked("low", 1, r#","nodeName":"n"}"#), 0);
    world.see(&ranked("high", 10, "}"), 0);
    world.schedule(0);
    let eviction = world.model.next_eviction().expect("the lower one goes");
    world.model.eviction_ended(eviction.id);
    world.schedule(400_000);
    assert!(world.model.next_eviction().is_some());
}

#[test]
fn a_pod_that_waits_for_company_is_placed_when_it_comes() {
    let mut world = World::new(&["n", "m"]);
    let wants = r#","affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[
        {"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"db"}}}]}}}"#;
    for name in ["n", "m"] {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{"zone":"z"}}}},
                "status":{{"allocatable":{{"cpu":"1","memory":"1Gi","pods":"9"}}}}}}"#
        );
        let view: NodeView = serde_json::from_str(&json).unwrap();
        world.model.node_changed(&Delta { old: None, new: Some(Arc::new(view)) }, 0);
    }
    world.see(&pod("web", wants), 0);
    assert!(world.schedule(0).is_empty());
    let report = world.model.next_report().expect("told");
    assert_eq!(
        &*report.message,
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. preemption: 0/2 nodes are available: 2 Preemption \
         is not helpful for scheduling."
    );
    let db = r#"{"metadata":{"name":"db","namespace":"d","uid":"db","labels":{"app":"db"}},"spec":{"nodeName":"n"}}"#;
    world.see(&Arc::new(serde_json::from_str(db).unwrap()), 2_000);
    assert_eq!(names(&world.schedule(2_000)), ["web"]);
}

#[test]
fn pods_that_a_service_selects_are_spread() {
    let labelled = |uid: &str, cpu: &str, app: &str, rest: &str| -> Arc<PodView> {
        let json = format!(
            r#"{{"metadata":{{"name":"{uid}","namespace":"d","uid":"{uid}","labels":{{"app":"{app}"}}}},
                "spec":{{"schedulerName":"default-scheduler","containers":[{{"resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]{rest}}}}}"#
        );
        Arc::new(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")))
    };
    for spread in [false, true] {
        let mut world = World::new(&[]);
        for name in ["n", "m"] {
            let json = format!(
                r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{"kubernetes.io/hostname":"{name}"}}}},
                    "status":{{"allocatable":{{"cpu":"1","memory":"1Gi","pods":"9"}}}}}}"#
            );
            let view: NodeView = serde_json::from_str(&json).unwrap();
            world.model.node_changed(&Delta { old: None, new: Some(Arc::new(view)) }, 0);
        }
        if spread {
            let service = r#"{"metadata":{"name":"s","namespace":"d"},"spec":{"selector":{"app":"web"}}}"#;
            let view = Some(Arc::new(serde_json::from_str(service).unwrap()));
            world.model.spreading.service_changed(&Delta { old: None, new: view });
        }
        // The emptier node is the one that has the company.
        world.see(&labelled("other", "200m", "db", r#","nodeName":"n""#), 0);
        world.see(&labelled("company", "100m", "web", r#","nodeName":"m""#), 0);
        world.see(&labelled("new", "50m", "web", ""), 0);
        let sent = world.schedule(0);
        let want = if spread { "n" } else { "m" };
        assert_eq!((names(&sent), &*sent[0].node), (vec!["new"], want));
        let before = world.model.cluster.classes();
        world.see(&labelled("new", "50m", "web", &format!(r#","nodeName":"{want}""#)), 1);
        assert_eq!(world.model.cluster.classes(), before, "it is confirmed in the class in which it was placed");
    }
}

/// A pod of group `g`, which needs `least` pods.
fn member(uid: &str, least: usize, rest: &str) -> Arc<PodView> {
    let json = format!(
        r#"{{"metadata":{{"name":"{uid}","namespace":"d","uid":"{uid}","labels":{{"scheduling.x-k8s.io/pod-group":"g",
            "pod-group.scheduling.sigs.k8s.io/min-available":"{least}"}}}},
            "spec":{{"schedulerName":"default-scheduler","containers":[{{"resources":{{"requests":{{"cpu":"600m"}}}}}}]{rest}}}}}"#
    );
    Arc::new(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}")))
}

#[test]
fn a_group_is_placed_whole_or_not_at_all() {
    let mut world = World::new(&["n", "m"]);
    world.see(&member("a", 3, ""), 0);
    world.see(&member("b", 3, ""), 0);
    assert!(world.schedule(0).is_empty());
    let report = world.model.next_report().expect("told");
    assert_eq!(
        &*report.message,
        "0/2 nodes are available: pre-filter pod a cannot find enough sibling pods, current pods number: 2, minMember \
         of group: 3."
    );
    // All are there, and two nodes have room for two of them.
    world.see(&member("c", 3, ""), 1);
    assert!(world.schedule(1).is_empty());
    assert_eq!(world.model.cluster.pods(), 0, "no place is kept");
    world.see(&pending("single"), 2);
    assert_eq!(names(&world.schedule(2)), ["single"], "others go on meanwhile");
    world.gone(&pending("single"), 3);
    world.node("o", 5_000);
    let sent = world.schedule(5_000);
    assert_eq!(names(&sent), ["a", "b", "c"]);
    // One of them is refused by the API: it comes again, alone.
    world.end(&sent[0], Outcome::Bound, 5_001);
    world.end(&sent[1], Outcome::Refused("no".into()), 5_001);
    world.end(&sent[2], Outcome::Bound, 5_001);
    assert_eq!(names(&world.schedule(9_000)), ["b"]);
    for (uid, node) in [("a", &sent[0].node), ("c", &sent[2].node)] {
        world.see(&member(uid, 3, &format!(r#","nodeName":"{node}""#)), 9_001);
    }
    // A fourth needs nobody else any more.
    world.node("p", 9_002);
    world.see(&member("d", 3, ""), 9_002);
    assert_eq!(names(&world.schedule(9_002)), ["d"]);
}

#[test]
fn a_pod_group_says_how_many_are_needed() {
    let mut world = World::new(&["n", "m"]);
    let group = |least: usize| {
        let json = format!(r#"{{"metadata":{{"name":"g","namespace":"d"}},"spec":{{"minMember":{least}}}}}"#);
        Delta { old: None, new: Some(Arc::new(serde_json::from_str(&json).unwrap())) }
    };
    world.model.group_changed(&group(2), 0);
    world.see(&member("a", 0, ""), 0);
    assert!(world.schedule(0).is_empty());
    world.model.group_changed(&group(1), 1);
    assert_eq!(names(&world.schedule(1)), ["a"]);
    world.gone(&member("a", 0, ""), 2);
    assert!(!world.model.gangs.is_gang(PodId(2)), "nothing is left of a group without pods");
}

#[test]
fn members_that_were_bound_before_count() {
    let mut world = World::new(&["n", "m"]);
    world.see(&member("old", 2, r#","nodeName":"n""#), 0);
    world.see(&member("new", 2, ""), 0);
    assert_eq!(names(&world.schedule(0)), ["new"]);
}

#[test]
fn a_profile_that_does_not_preempt_leaves_others_alone() {
    let mut world = World::new(&["n"]);
    world.model.profiles[0].preempts = false;
    world.see(&ranked("low", 1, r#","nodeName":"n"}"#), 0);
    world.see(&ranked("high", 10, "}"), 0);
    assert!(world.schedule(0).is_empty() && world.model.next_eviction().is_none());
    world.model.profiles[0].preempts = true;
    world.schedule(400_000);
    assert!(world.model.next_eviction().is_some());
}

#[test]
fn a_profile_decides_how_nodes_are_scored() {
    for (fit, want) in [(FitStrategy::LeastAllocated, "m"), (FitStrategy::MostAllocated, "n")] {
        let mut profile = ProfileSettings::default();
        profile.core.fit = fit;
        profile.core.weights.balanced_allocation = 0;
        let model = Model::new(vec![profile], 1, 1, Waits::default(), Metrics::new(DEFAULT_SCHEDULER));
        let mut world = World { model };
        ["n", "m"].into_iter().for_each(|name| world.node(name, 0));
        let used = r#"{"metadata":{"name":"x","uid":"x"},"spec":{"nodeName":"n","containers":[{"resources":{"requests":{"cpu":"200m"}}}]}}"#;
        world.see(&Arc::new(serde_json::from_str(used).unwrap()), 0);
        world.see(&pending("a"), 0);
        assert_eq!(&*world.schedule(0)[0].node, want);
    }
}

#[test]
fn pods_go_to_the_profile_that_they_name() {
    let mut world = World::new(&["n", "m"]);
    let mut second = ProfileSettings::default();
    second.core.name = "second".into();
    world.model.profiles.push(second);
    let named = |name: &str| {
        let json = format!(r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"spec":{{"schedulerName":"{name}"}}}}"#);
        Arc::new(serde_json::from_str(&json).unwrap())
    };
    ["second", "third", ""].into_iter().for_each(|name| world.see(&named(name), 0));
    let sent = world.schedule(0);
    assert_eq!(names(&sent), ["second", ""]);
    assert_eq!(world.model.completed(&sent[0].view).unwrap().profile, 1);
}
