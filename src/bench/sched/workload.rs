//! The workloads: clusters, the pods that are there already, and the pods to place.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::ValueEnum;
use kelson_sched::{
    Class, Cluster, ContainerRequests, Decision, LabelSelector, NodeSelectorTerm, NodeSpec, Operator, Pod, PodId,
    PodTemplate, PodTerm, Requests, Requirement, Resources, SpreadConstraint,
};

const MIB: i64 = 1 << 20;
/// Pods that are placed in one batch.
const BATCH: usize = 4096;
/// Pods that preempt, or come and go, between two looks at the queue.
const ROUND: usize = 256;
/// Members of a gang.
const GANG: usize = 16;
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Pods without constraints.
    Basic,
    /// Required node affinity to zones.
    #[value(name = "affinity", alias = "node-affinity")]
    NodeAffinity,
    /// Required anti-affinity of a pod to its like, by host name.
    AntiAffinity,
    /// Required affinity to other pods, by zone.
    PodAffinity,
    /// Preferred affinity to other pods, by host name.
    PreferredAffinity,
    /// Topology spread over three zones, `DoNotSchedule`.
    Spread,
    /// A full cluster of low priority, and pods of high priority.
    Preemption,
    /// Groups of 16 pods, all or none.
    Gang,
    /// Pods and nodes that come and go all the time.
    Churn,
    /// Each of them.
    All,
}

const EACH: [Workload; 9] = [
    Workload::Basic,
    Workload::NodeAffinity,
    Workload::Spread,
    Workload::PreferredAffinity,
    Workload::AntiAffinity,
    Workload::PodAffinity,
    Workload::Preemption,
    Workload::Gang,
    Workload::Churn,
];

/// The workloads that were asked for.
pub fn chosen(asked: &[Workload]) -> Vec<Workload> {
    if asked.contains(&Workload::All) { EACH.to_vec() } else { asked.to_vec() }
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Workload::Basic => "basic",
            Workload::NodeAffinity => "affinity",
            Workload::AntiAffinity => "anti-affinity",
            Workload::PodAffinity => "pod-affinity",
            Workload::PreferredAffinity => "preferred-affinity",
            Workload::Spread => "spread",
            Workload::Preemption => "preemption",
            Workload::Gang => "gang",
            Workload::Churn => "churn",
            Workload::All => "all",
        }
    }

    /// Pods per second that kube-scheduler's own benchmark demands of it at 5,000 nodes.
    pub fn floor(self) -> Option<f64> {
        match self {
            Workload::Basic => Some(270.0),
            Workload::NodeAffinity => Some(220.0),
            Workload::Spread => Some(85.0),
            Workload::PreferredAffinity => Some(90.0),
            Workload::AntiAffinity => Some(60.0),
            Workload::PodAffinity => Some(35.0),
            Workload::Preemption => Some(160.0),
            Workload::Churn => Some(265.0),
            Workload::Gang | Workload::All => None,
        }
    }

    /// Pods that its benchmark places on so many nodes.
    pub fn pods(self, nodes: usize) -> usize {
        match self {
            Workload::Basic | Workload::NodeAffinity | Workload::Churn | Workload::Gang => nodes * 2,
            Workload::AntiAffinity => (nodes * 2 / 5).max(1),
            // The rest of the nodes is for those that are placed one at a time.
            Workload::Preemption => (nodes * 4 / 5).max(1),
            _ => nodes,
        }
    }

    /// Pods to place one at a time, of so many at most.
    pub fn singles(self, nodes: usize, most: usize) -> usize {
        if self == Workload::Preemption { most.min(nodes - nodes * 4 / 5) } else { most }
    }

    /// Pods that are there before.
    fn initial(self, nodes: usize) -> usize {
        match self {
            Workload::Basic | Workload::AntiAffinity | Workload::Churn | Workload::Gang => nodes / 5,
            Workload::Preemption => nodes * 4,
            _ => nodes,
        }
    }

    fn zones(self) -> usize {
        match self {
            Workload::Spread => 3,
            Workload::NodeAffinity | Workload::PodAffinity => 1,
            _ => 10,
        }
    }
}

/// A cluster and what is to be placed on it.
pub struct Scene {
    workload: Workload,
    cluster: Cluster,
    nodes: usize,
    pods: Vec<Pod>,
    next: u64,
}

impl Scene {
    /// Builds the cluster and places the pods that are there before.
    pub fn new(workload: Workload, nodes: usize, pods: usize, threads: usize, seed: u64) -> Result<Scene> {
        let mut cluster = Cluster::new(threads, seed);
        for at in 0..nodes {
            cluster.upsert_node(&node(at, workload.zones()));
        }
        for namespace in ["sched-0", "sched-1"] {
            cluster.set_namespace(&namespace.into(), Some(Vec::new()));
        }
        let before = class(&mut cluster, &before(workload));
        let initial = workload.initial(nodes);
        let ready: Vec<Pod> =
            (0..initial).map(|at| Pod { id: PodId(at as u64), class: before.clone(), priority: 0 }).collect();
        let unplaced = place(&mut cluster, &ready);
        if unplaced > 0 {
            bail!("{unplaced} of the {initial} pods that should be there before do not fit on {nodes} nodes");
        }
        let measured = class(&mut cluster, &measured(workload));
        let priority = if workload == Workload::Preemption { 10 } else { 0 };
        let pod = |at: usize| Pod { id: PodId((initial + at) as u64), class: measured.clone(), priority };
        Ok(Scene { workload, cluster, nodes, pods: (0..pods).map(pod).collect(), next: (initial + pods) as u64 })
    }

    /// Places the pods. Returns how many found a node.
    pub fn act(&mut self) -> usize {
        match self.workload {
            Workload::Preemption => self.pods.chunks(ROUND).map(|pods| preempt(&mut self.cluster, pods)).sum(),
            Workload::Gang => self.pods.chunks(GANG).map(|pods| gang(&mut self.cluster, pods)).sum(),
            Workload::Churn => self.churn(),
            _ => self.pods.len() - place(&mut self.cluster, &self.pods),
        }
    }

    /// Between rounds the oldest pods go, a node is replaced, another is cordoned and one is open again.
    fn churn(&mut self) -> usize {
        let mut placed = 0;
        for (round, pods) in self.pods.chunks(ROUND).enumerate() {
            placed += pods.len() - place(&mut self.cluster, pods);
            let oldest = round * ROUND;
            for at in oldest..oldest + ROUND / 2 {
                self.cluster.remove_pod(PodId(at as u64));
            }
            let at = round % self.nodes;
            self.cluster.remove_node(&node(at, 10).name);
            self.cluster.upsert_node(&node(at, 10));
            let cordoned = NodeSpec { unschedulable: round % 2 == 0, ..node((round / 2 + 7) % self.nodes, 10) };
            self.cluster.upsert_node(&cordoned);
        }
        placed
    }

    /// Places one more pod alone, making room for it where that is the workload.
    pub fn place_one(&mut self) -> Result<()> {
        let Some(last) = self.pods.last() else { bail!("there are no pods") };
        let pod = Pod { id: PodId(self.next), class: last.class.clone(), priority: last.priority };
        let placed = match self.workload {
            Workload::Preemption => preempt(&mut self.cluster, std::slice::from_ref(&pod)) == 1,
            _ => matches!(self.cluster.schedule(std::slice::from_ref(&pod))[0], Decision::Bound(_)),
        };
        if !placed {
            bail!("{}: there is no room for one pod more", self.workload.name());
        }
        Ok(())
    }

    /// Takes away the pod that was placed last, not measured.
    pub fn take_one_back(&mut self) {
        // Where room was made for it, it would leave room for the next one.
        if self.workload != Workload::Preemption {
            self.cluster.remove_pod(PodId(self.next));
        }
        self.next += 1;
    }
}

/// Returns how many found no node.
fn place(cluster: &mut Cluster, pods: &[Pod]) -> usize {
    let refused = |decision: &Decision| matches!(decision, Decision::Unschedulable(_));
    // Where threads place together, they want a batch that is worth their start.
    pods.chunks(BATCH * 4).map(|batch| cluster.schedule(batch).iter().filter(|one| refused(one)).count()).sum()
}

/// Each pod's victims are gone by the next look. Returns how many found a node.
fn preempt(cluster: &mut Cluster, pods: &[Pod]) -> usize {
    let refused = cluster.schedule(pods);
    for (pod, decision) in pods.iter().zip(refused) {
        if matches!(decision, Decision::Unschedulable(_))
            && let Ok(found) = cluster.preempt(pod)
        {
            found.victims.iter().for_each(|victim| {
                cluster.remove_pod(*victim);
            });
            cluster.nominate(pod, found.node);
        }
    }
    cluster.schedule(pods).iter().filter(|one| matches!(one, Decision::Bound(_))).count()
}

fn gang(cluster: &mut Cluster, pods: &[Pod]) -> usize {
    cluster.schedule_gang(pods, pods.len()).iter().filter(|one| matches!(one, Decision::Bound(_))).count()
}

fn node(at: usize, zones: usize) -> NodeSpec {
    let name: Arc<str> = format!("node-{at}").into();
    NodeSpec {
        labels: vec![(HOSTNAME.into(), name.clone()), (ZONE.into(), format!("zone-{}", at % zones + 1).into())],
        name,
        allocatable: Resources { milli_cpu: 4_000, memory: 32 << 30, ..Resources::default() },
        pods: 110,
        ..NodeSpec::default()
    }
}

fn class(cluster: &mut Cluster, template: &PodTemplate) -> Arc<Class> {
    cluster.class(&Arc::new(template.clone()))
}

fn template(milli_cpu: i64, namespace: &str, colour: &str) -> PodTemplate {
    let container =
        ContainerRequests { milli_cpu: Some(milli_cpu), memory: Some(500 * MIB), ..ContainerRequests::default() };
    PodTemplate {
        requests: Requests::of_pod(&[container], &[], None, None),
        namespace: namespace.into(),
        labels: vec![("color".into(), colour.into())],
        ..PodTemplate::default()
    }
}

fn before(workload: Workload) -> PodTemplate {
    match workload {
        Workload::Preemption => template(900, "sched-0", "grey"),
        Workload::Spread => template(100, "sched-0", "grey"),
        _ => PodTemplate { namespace: "sched-0".into(), ..measured(workload) },
    }
}

fn measured(workload: Workload) -> PodTemplate {
    let term = |colour: &str, key: &str| PodTerm {
        selector: Some(LabelSelector::of_pairs([("color", colour)])),
        namespaces: vec!["sched-0".into(), "sched-1".into()],
        namespace_selector: None,
        topology_key: key.into(),
    };
    let plain = template(100, "sched-1", "blue");
    match workload {
        Workload::NodeAffinity => {
            let values = vec!["zone-1".into(), "zone-2".into()];
            let in_zone = Requirement { key: ZONE.into(), operator: Operator::In, values };
            PodTemplate {
                required: Some(vec![NodeSelectorTerm { expressions: vec![in_zone], fields: vec![] }]),
                ..plain
            }
        }
        Workload::AntiAffinity => PodTemplate { anti_affinity: vec![term("blue", HOSTNAME)], ..plain },
        Workload::PodAffinity => PodTemplate { affinity: vec![term("blue", ZONE)], ..plain },
        Workload::PreferredAffinity => PodTemplate { preferred_affinity: vec![(1, term("blue", HOSTNAME))], ..plain },
        Workload::Spread => {
            let constraint = SpreadConstraint {
                max_skew: 5,
                topology_key: ZONE.into(),
                hard: true,
                selector: Some(LabelSelector::of_pairs([("color", "blue")])),
                min_domains: 1,
                honor_affinity: true,
                honor_taints: false,
            };
            PodTemplate { spread: vec![constraint], ..plain }
        }
        Workload::Preemption => template(3_000, "sched-1", "blue"),
        _ => plain,
    }
}
