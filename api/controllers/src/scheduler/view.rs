//! Pods and nodes as the scheduler reads them: nothing is kept that it does not use, so that many fit in memory.

use std::sync::Arc;

use kelson_sched::{
    Budget, ContainerRequests, Effect, HostPort, NodeSelectorTerm, NodeSpec, Operator, Pairs, PodTemplate, Protocol,
    Requests, Requirement, Resources, Taint, Tenure, Toleration, TolerationOperator,
};
use kelson_wire::kube::{Keyed, ObjectMeta, ObjectReference, quantity, timestamp};
use serde::{Deserialize, Deserializer};

use super::spreading::{Owner, OwnerKind};
use super::{devices, others, raw, storage};

/// The `PodScheduled` condition where it is not `True`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub status: Box<str>,
    pub reason: Box<str>,
    pub message: Box<str>,
}

/// A pod.
#[derive(Debug)]
pub struct PodView {
    meta: ObjectMeta,
    /// Empty while the pod is not bound.
    pub node_name: Arc<str>,
    pub scheduler_name: Box<str>,
    /// Phase `Succeeded` or `Failed`: it holds nothing any more.
    pub ended: bool,
    /// Held back by `spec.schedulingGates`.
    pub gated: bool,
    pub priority: i32,
    /// `status.startTime` in milliseconds since 1970, 0 before it starts.
    started: u64,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// `status.nominatedNodeName`, if there is one.
    pub nominated: Option<Box<str>>,
    /// `PodScheduled` as it stands, unless it is absent or `True`.
    pub condition: Option<Box<Condition>>,
    pub template: Arc<PodTemplate>,
    /// Its controller, if that is of a kind whose selector spreads pods.
    pub owner: Option<Box<Owner>>,
}

impl Keyed for PodView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl PodView {
    /// Creation in milliseconds since 1970, 0 if it is not known.
    pub fn created(&self) -> u64 {
        self.meta.creation_timestamp.as_deref().map_or(0, millis)
    }

    /// What its place is worth to it.
    pub fn tenure(&self) -> Tenure {
        Tenure { priority: self.priority, started: self.started, terminating: self.meta.is_terminating() }
    }

    /// How Events refer to it.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
            uid: self.meta.uid.clone(),
            field_path: String::new(),
        }
    }
}

impl<'de> Deserialize<'de> for PodView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PodView, D::Error> {
        Ok(raw::Pod::deserialize(deserializer)?.into())
    }
}

/// A node.
#[derive(Debug)]
pub struct NodeView {
    meta: ObjectMeta,
    pub spec: NodeSpec,
}

impl Keyed for NodeView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl<'de> Deserialize<'de> for NodeView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeView, D::Error> {
        Ok(raw::Node::deserialize(deserializer)?.into())
    }
}

/// A namespace.
#[derive(Debug)]
pub struct NamespaceView {
    meta: ObjectMeta,
    pub labels: Pairs,
}

impl Keyed for NamespaceView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl<'de> Deserialize<'de> for NamespaceView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NamespaceView, D::Error> {
        let raw = raw::Namespace::deserialize(deserializer)?;
        Ok(NamespaceView { meta: meta(&raw.metadata), labels: others::pairs(&raw.metadata.labels) })
    }
}

/// A PodDisruptionBudget.
#[derive(Debug)]
pub struct BudgetView {
    meta: ObjectMeta,
    pub budget: Budget,
}

impl Keyed for BudgetView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl<'de> Deserialize<'de> for BudgetView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BudgetView, D::Error> {
        let raw = raw::Budget::deserialize(deserializer)?;
        let budget = Budget {
            namespace: raw.metadata.namespace.as_str().into(),
            selector: raw.spec.selector.as_ref().map(others::selector),
            allowed: raw.status.disruptions_allowed,
        };
        Ok(BudgetView { meta: meta(&raw.metadata), budget })
    }
}

/// Milliseconds since 1970, 0 for what is no time.
fn millis(text: &str) -> u64 {
    let since = timestamp::parse(text).and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn meta(raw: &raw::Meta<'_>) -> ObjectMeta {
    ObjectMeta {
        name: raw.name.as_str().into(),
        namespace: raw.namespace.as_str().into(),
        uid: raw.uid.as_str().into(),
        resource_version: raw.resource_version.as_str().into(),
        creation_timestamp: raw.creation_timestamp.as_deref().map(str::to_string),
        deletion_timestamp: raw.deletion_timestamp.as_deref().map(str::to_string),
        ..ObjectMeta::default()
    }
}

impl From<raw::Pod<'_>> for PodView {
    fn from(pod: raw::Pod<'_>) -> PodView {
        let condition = pod.status.conditions.iter().find(|one| one.kind == "PodScheduled" && one.status != "True");
        PodView {
            meta: meta(&pod.metadata),
            node_name: pod.spec.node_name.as_str().into(),
            scheduler_name: pod.spec.scheduler_name.as_str().into(),
            ended: matches!(pod.status.phase.as_str(), "Succeeded" | "Failed"),
            gated: !pod.spec.scheduling_gates.is_empty(),
            priority: pod.spec.priority.unwrap_or(0),
            started: pod.status.start_time.as_deref().map_or(0, millis),
            never_preempts: pod.spec.preemption_policy == "Never",
            nominated: Some(&*pod.status.nominated_node_name).filter(|name| !name.is_empty()).map(Into::into),
            condition: condition.map(|one| {
                Box::new(Condition {
                    status: one.status.as_str().into(),
                    reason: one.reason.as_str().into(),
                    message: one.message.as_str().into(),
                })
            }),
            template: Arc::new(template(&pod.metadata, &pod.spec, &pod.status)),
            owner: owner(&pod.metadata),
        }
    }
}

fn owner(meta: &raw::Meta<'_>) -> Option<Box<Owner>> {
    let reference = meta.owner_references.iter().find(|reference| reference.controller)?;
    let kind = match (reference.api_version.as_str(), reference.kind.as_str()) {
        ("v1", "ReplicationController") => OwnerKind::ReplicationController,
        ("apps/v1", "ReplicaSet") => OwnerKind::ReplicaSet,
        ("apps/v1", "StatefulSet") => OwnerKind::StatefulSet,
        _ => return None,
    };
    Some(Box::new(Owner { kind, name: reference.name.as_str().into() }))
}

fn template(meta: &raw::Meta<'_>, spec: &raw::PodSpec<'_>, status: &raw::PodStatus<'_>) -> PodTemplate {
    let requests = |container: &raw::Container<'_>| {
        let mut requests = container_requests(&container.resources);
        requests.sidecar = container.restart_policy == "Always";
        requests
    };
    let containers: Vec<_> = spec.containers.iter().map(requests).collect();
    let init_containers: Vec<_> = spec.init_containers.iter().map(requests).collect();
    let pod_level = spec.resources.as_ref().map(container_requests);
    let overhead = (!spec.overhead.0.is_empty()).then(|| resources(&spec.overhead).0);
    let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let node_selector = others::pairs(&spec.node_selector);
    let mut template = PodTemplate {
        requests: Requests::of_pod(&containers, &init_containers, pod_level.as_ref(), overhead.as_ref()),
        node_name: None,
        node_selector,
        required: node_affinity
            .and_then(|affinity| affinity.required.as_ref())
            .map(|required| required.node_selector_terms.iter().map(term).collect()),
        preferred: node_affinity
            .map(|affinity| affinity.preferred.iter().map(|one| (one.weight, term(&one.preference))).collect())
            .unwrap_or_default(),
        tolerations: spec.tolerations.iter().filter_map(toleration).collect(),
        host_ports: host_ports(spec),
        images: spec.init_containers.iter().chain(&spec.containers).map(|one| one.image.as_str().into()).collect(),
        ..others::template(meta, spec)
    };
    storage::complete(&mut template, meta, spec);
    devices::complete(&mut template, meta, spec, status);
    template
}

/// Reads a list of resources; besides the sums, whether CPU and memory are given at all. An amount that cannot be read
/// counts as more than any node has.
fn resources(list: &raw::Pairs<'_>) -> (Resources, bool, bool) {
    let mut resources = Resources::default();
    let (mut cpu, mut memory) = (false, false);
    for (name, amount) in &list.0 {
        let units = || quantity::units(amount).unwrap_or(i64::MAX);
        match name.as_str() {
            "cpu" => {
                resources.milli_cpu = quantity::millis(amount).unwrap_or(i64::MAX);
                cpu = true;
            }
            "memory" => {
                resources.memory = units();
                memory = true;
            }
            "ephemeral-storage" => resources.ephemeral_storage = units(),
            "pods" => {}
            name => resources.set_extended(name, units()),
        }
    }
    (resources, cpu, memory)
}

/// A limit stands for a request that is not given, as the API defaults it.
fn container_requests(list: &raw::Requirements<'_>) -> ContainerRequests {
    let mut merged = raw::Pairs(list.requests.0.clone());
    for (name, amount) in &list.limits.0 {
        if !merged.0.iter().any(|(have, _)| have == name) {
            merged.0.push((name.clone(), amount.clone()));
        }
    }
    let (resources, cpu, memory) = resources(&merged);
    ContainerRequests {
        milli_cpu: cpu.then_some(resources.milli_cpu),
        memory: memory.then_some(resources.memory),
        ephemeral_storage: resources.ephemeral_storage,
        extended: resources.extended,
        sidecar: false,
    }
}

pub(super) fn requirement(raw: &raw::Requirement<'_>) -> Requirement {
    // An operator that is not known matches nothing, as `In` without values does.
    let operator = Operator::parse(&raw.operator);
    let values = if operator.is_some() { raw.values.as_slice() } else { &[] };
    Requirement {
        key: raw.key.as_str().into(),
        operator: operator.unwrap_or(Operator::In),
        values: values.iter().map(|value| value.as_str().into()).collect(),
    }
}

pub(super) fn term(raw: &raw::Term<'_>) -> NodeSelectorTerm {
    NodeSelectorTerm {
        expressions: raw.match_expressions.iter().map(requirement).collect(),
        fields: raw.match_fields.iter().map(requirement).collect(),
    }
}

/// `None` for an effect that is not known: it tolerates nothing that exists.
pub(super) fn toleration(raw: &raw::Toleration<'_>) -> Option<Toleration> {
    let effect = if raw.effect.is_empty() { None } else { Some(Effect::parse(&raw.effect)?) };
    let operator = match raw.operator.as_str() {
        "" | "Equal" => TolerationOperator::Equal,
        "Exists" => TolerationOperator::Exists,
        _ => TolerationOperator::Unknown,
    };
    Some(Toleration { key: raw.key.to_string(), operator, value: raw.value.to_string(), effect })
}

fn host_ports(spec: &raw::PodSpec<'_>) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|one| one.restart_policy == "Always");
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let mut taken = Vec::new();
    for port in ports {
        let number = if port.host_port == 0 && spec.host_network { port.container_port } else { port.host_port };
        let protocol = match port.protocol.as_str() {
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        if let Ok(port_number @ 1..) = u16::try_from(number) {
            taken.push(HostPort { protocol, port: port_number, ip: port.host_ip.as_str().into() });
        }
    }
    taken.sort_unstable();
    taken.dedup();
    taken
}

impl From<raw::Node<'_>> for NodeView {
    fn from(node: raw::Node<'_>) -> NodeView {
        let meta = meta(&node.metadata);
        let shared = |text: &raw::Text<'_>| -> Arc<str> { text.as_str().into() };
        let pods = node.status.allocatable.0.iter().find(|(name, _)| *name == "pods");
        let taint = |taint: &raw::Taint<'_>| {
            let effect = Effect::parse(&taint.effect)?;
            Some(Taint { key: taint.key.to_string(), value: taint.value.to_string(), effect })
        };
        let images = node.status.images.iter().flat_map(|image| {
            let size = image.size_bytes;
            image.names.iter().map(move |name| (name.as_str().into(), size))
        });
        let (mut allocatable, ..) = resources(&node.status.allocatable);
        // What cannot be read is not there.
        for amount in [&mut allocatable.milli_cpu, &mut allocatable.memory, &mut allocatable.ephemeral_storage] {
            *amount = if *amount == i64::MAX { 0 } else { *amount };
        }
        allocatable.extended.retain(|(_, amount)| *amount != i64::MAX);
        NodeView {
            spec: NodeSpec {
                name: meta.name.clone(),
                allocatable,
                pods: pods.and_then(|(_, amount)| quantity::units(amount)).unwrap_or(0),
                labels: node.metadata.labels.0.iter().map(|(key, value)| (shared(key), shared(value))).collect(),
                taints: node.spec.taints.iter().filter_map(taint).collect(),
                unschedulable: node.spec.unschedulable,
                images: images.collect(),
                features: Vec::new(),
            },
            meta,
        }
    }
}

#[cfg(test)]
mod tests {
    use kelson_sched::{ClaimUse, Disk, VolumeUse};

    use super::*;

    #[test]
    fn a_pod_is_read_in_full() {
        let pod: PodView = serde_json::from_str(
            r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1","resourceVersion":"7","labels":{"a":"b"},
                "creationTimestamp":"2026-01-02T03:04:05Z"},
              "spec":{"schedulerName":"default-scheduler","priority":10,"hostNetwork":true,
                "nodeSelector":{"zone":"a","disk":"ssd"},
                "containers":[
                  {"name":"c","image":"nginx","resources":{"requests":{"cpu":"250m","memory":"64Mi"},"limits":{"cpu":1,"example.com/gpu":"2"}},
                   "ports":[{"containerPort":80},{"containerPort":81,"hostPort":8081,"protocol":"UDP","hostIP":"10.0.0.1"}]},
                  {"name":"d","image":"tool","resources":{"limits":{"cpu":2}},"env":[{"name":"x","value":"esc\u00e4ped"}]}],
                "initContainers":[{"name":"i","restartPolicy":"Always","resources":{"requests":{"cpu":"100m"}}}],
                "overhead":{"memory":"1Mi"},
                "tolerations":[{"key":"gpu","operator":"Exists","effect":"NoSchedule"},{"effect":"Bogus"}],
                "affinity":{"nodeAffinity":{
                  "requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[
                    {"matchExpressions":[{"key":"cores","operator":"Gt","values":["4"]}]}]},
                  "preferredDuringSchedulingIgnoredDuringExecution":[
                    {"weight":5,"preference":{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}}]}}},
              "status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"m"}]}}"#,
        )
        .unwrap();
        let template = &pod.template;
        assert_eq!(template.requests.resources.milli_cpu, 250 + 2000 + 100);
        assert_eq!(template.requests.resources.memory, 65 << 20);
        assert_eq!(template.requests.resources.extended, [("example.com/gpu".into(), 2)]);
        assert_eq!(template.node_selector, [("disk".into(), "ssd".into()), ("zone".into(), "a".into())]);
        assert_eq!(template.tolerations.len(), 1);
        assert_eq!(template.required.as_ref().unwrap()[0].expressions[0].operator, Operator::Gt);
        assert_eq!(template.preferred[0].0, 5);
        assert_eq!(template.host_ports.len(), 2);
        assert_eq!((pod.priority, pod.ended, pod.gated), (10, false, false));
        assert_eq!(pod.condition.as_ref().unwrap().reason.as_ref(), "Unschedulable");
        assert_eq!(pod.created(), 1_767_323_045_000);
    }

    #[test]
    fn volumes_are_read_in_full() {
        let pod: PodView = serde_json::from_str(
            r#"{"metadata":{"name":"db-0","uid":"u1"},"spec":{"volumes":[
                {"name":"a","persistentVolumeClaim":{"claimName":"data"}},{"name":"b","emptyDir":{}},
                {"name":"scratch","ephemeral":{"volumeClaimTemplate":{}}},
                {"name":"c","gcePersistentDisk":{"pdName":"pd","readOnly":true}},
                {"name":"d","awsElasticBlockStore":{"volumeID":"vol-1"}},
                {"name":"e","iscsi":{"iqn":"iqn.1","lun":0}},
                {"name":"f","rbd":{"monitors":["m1","m2"],"image":"i"}}]}}"#,
        )
        .unwrap();
        assert_eq!(
            pod.template.volumes,
            [
                VolumeUse::Claim("data".into()),
                VolumeUse::Ephemeral("db-0-scratch".into()),
                VolumeUse::Disk(Disk::Gce { name: "pd".into(), read_only: true }),
                VolumeUse::Disk(Disk::Ebs { id: "vol-1".into() }),
                VolumeUse::Disk(Disk::Iscsi { iqn: "iqn.1".into(), read_only: false }),
                VolumeUse::Disk(Disk::Rbd {
                    monitors: vec!["m1".into(), "m2".into()],
                    pool: "rbd".into(),
                    image: "i".into(),
                    read_only: false,
                }),
            ]
        );
        assert_eq!(pod.template.uid.as_deref(), Some("u1"), "it owns a claim");
        let shared: PodView = serde_json::from_str(
            r#"{"metadata":{"name":"a","uid":"u2"},"spec":{"volumes":[{"persistentVolumeClaim":{"claimName":"x"}}]}}"#,
        )
        .unwrap();
        assert_eq!(shared.template.uid, None, "pods with one claim are one class");
    }

    #[test]
    fn nulls_and_absences_are_empty() {
        let pod: PodView = serde_json::from_str(
            r#"{"metadata":{"name":"a","creationTimestamp":null},"spec":{"containers":[{"resources":{},"ports":null}],
                "nodeSelector":null,"tolerations":null,"affinity":null,"nodeName":""},"status":{}}"#,
        )
        .unwrap();
        assert!(pod.node_name.is_empty() && pod.template.tolerations.is_empty());
        assert_eq!(pod.template.requests.scored_milli_cpu, kelson_sched::DEFAULT_MILLI_CPU);
        let bare: PodView = serde_json::from_str(r#"{"metadata":{"name":"a"}}"#).unwrap();
        assert!(!bare.ended);
    }

    #[test]
    fn claims_are_named_or_made() {
        let pod: PodView = serde_json::from_str(
            r#"{"metadata":{"name":"web-0","uid":"u1"},"spec":{"resourceClaims":[{"name":"a","resourceClaimName":"gpu"},
                {"name":"b","resourceClaimTemplateName":"t"},{"name":"c","resourceClaimTemplateName":"t"},
                {"name":"d","resourceClaimTemplateName":"t"}]},
              "status":{"resourceClaimStatuses":[{"name":"b","resourceClaimName":"web-0-b-x"},{"name":"c"}]}}"#,
        )
        .unwrap();
        let made = ClaimUse::Generated { claim: "web-0-b-x".into(), pod: "web-0".into() };
        let awaited = ClaimUse::Awaited { pod: "web-0".into() };
        assert_eq!(pod.template.claims, [ClaimUse::Named("gpu".into()), made, awaited]);
        assert_eq!(pod.template.uid.as_deref(), Some("u1"));
    }

    #[test]
    fn a_node_is_read_in_full() {
        let node: NodeView = serde_json::from_str(
            r#"{"metadata":{"name":"n1","labels":{"zone":"a"}},
              "spec":{"unschedulable":true,"taints":[{"key":"k","effect":"NoExecute"},{"key":"z","effect":"Odd"}]},
              "status":{"allocatable":{"cpu":"4","memory":"32Gi","pods":"110","ephemeral-storage":"nonsense","gpu":"2"},
                "images":[{"names":["a:1","a@sha256:0"],"sizeBytes":42}]}}"#,
        )
        .unwrap();
        let spec = &node.spec;
        assert_eq!((spec.allocatable.milli_cpu, spec.allocatable.memory, spec.pods), (4000, 32 << 30, 110));
        assert_eq!((spec.allocatable.ephemeral_storage, spec.allocatable.extended("gpu")), (0, 2));
        assert_eq!((spec.taints.len(), spec.unschedulable, spec.images.len()), (1, true, 2));
    }
}
