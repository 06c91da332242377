//! Nodes, pods and what they use as the API writes them.

mod gear;

use std::sync::Arc;

use kelson_sched::{
    AccessModes, Disk, Effect, Filter, FitStrategy, LabelSelector, NodeSelectorTerm, NodeSpec, Operator, PodTemplate,
    PodTerm, Profile, Protocol, Requirement, Taint, Toleration, TolerationOperator, Volume, VolumeClaim, VolumeUse,
};
use serde_json::{Map, Value, json};

use crate::random::disks::{Disks, Key};

pub use gear::{allocation, gear};

fn operator(operator: Operator) -> &'static str {
    match operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::Gt => "Gt",
        Operator::Lt => "Lt",
    }
}

fn requirement(one: &Requirement) -> Value {
    let values: Vec<&str> = one.values.iter().map(|value| &**value).collect();
    json!({ "key": &*one.key, "operator": operator(one.operator), "values": values })
}

pub fn pairs(pairs: &[(Arc<str>, Arc<str>)]) -> Value {
    Value::Object(pairs.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect())
}

fn label_selector(selector: &Option<LabelSelector>) -> Value {
    let expressions = |one: &LabelSelector| one.requirements.iter().map(requirement).collect::<Vec<_>>();
    selector.as_ref().map_or(Value::Null, |one| json!({ "matchExpressions": expressions(one) }))
}

fn node_term(term: &NodeSelectorTerm) -> Value {
    let lists = [("matchExpressions", &term.expressions), ("matchFields", &term.fields)];
    let some = lists.iter().filter(|(_, list)| !list.is_empty());
    let list = |list: &[Requirement]| list.iter().map(requirement).collect::<Vec<_>>();
    some.map(|(name, requirements)| (name.to_string(), json!(list(requirements)))).collect::<Map<_, _>>().into()
}

fn pod_term(term: &PodTerm) -> Value {
    let namespaces: Vec<&str> = term.namespaces.iter().map(|name| &**name).collect();
    json!({
        "labelSelector": label_selector(&term.selector),
        "namespaces": namespaces,
        "namespaceSelector": label_selector(&term.namespace_selector),
        "topologyKey": &*term.topology_key,
    })
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
    }
}

/// Containers whose requests add up to the template's: the first has all that is asked for, and as many of the others ask
/// for nothing as the defaults in the scores tell.
fn containers(template: &PodTemplate) -> Vec<Value> {
    let asks = &template.requests;
    let silent_cpu = (asks.scored_milli_cpu - asks.resources.milli_cpu) / kelson_sched::DEFAULT_MILLI_CPU;
    let silent_memory = (asks.scored_memory - asks.resources.memory) / kelson_sched::DEFAULT_MEMORY;
    let count = template.images.len() as i64;
    let container = |(at, image): (usize, &Arc<str>)| {
        let mut requests = Map::new();
        let first = |amount: i64| if at == 0 { amount } else { 0 };
        if (at as i64) < count - silent_cpu {
            requests.insert("cpu".into(), json!(format!("{}m", first(asks.resources.milli_cpu))));
        }
        if (at as i64) < count - silent_memory {
            requests.insert("memory".into(), json!(first(asks.resources.memory).to_string()));
        }
        if at == 0 {
            requests.insert("ephemeral-storage".into(), json!(asks.resources.ephemeral_storage.to_string()));
            for (name, amount) in &asks.resources.extended {
                requests.insert(name.to_string(), json!(amount.to_string()));
            }
        }
        let protocol = |protocol: Protocol| match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        let ports = template.host_ports.iter().filter(|_| at == 0).map(|port| {
            json!({ "hostPort": port.port, "containerPort": port.port, "hostIP": &*port.ip, "protocol": protocol(port.protocol) })
        });
        json!({ "name": format!("c{at}"), "image": &**image, "resources": { "requests": requests }, "ports": ports.collect::<Vec<_>>() })
    };
    template.images.iter().enumerate().map(container).collect()
}

pub fn pod(name: &str, template: &PodTemplate, node: Option<&str>, terminating: bool) -> Value {
    let terms = |terms: &[PodTerm]| terms.iter().map(pod_term).collect::<Vec<_>>();
    let weighted = |terms: &[(i32, PodTerm)]| {
        let one = |(weight, term): &(i32, PodTerm)| json!({ "weight": weight, "podAffinityTerm": pod_term(term) });
        terms.iter().map(one).collect::<Vec<_>>()
    };
    let preferred =
        |(weight, term): &(i32, NodeSelectorTerm)| json!({ "weight": weight, "preference": node_term(term) });
    let required = template
        .required
        .as_ref()
        .map(|terms| json!({ "nodeSelectorTerms": terms.iter().map(node_term).collect::<Vec<_>>() }));
    let policy = |honor: bool| if honor { "Honor" } else { "Ignore" };
    let spread = template.spread.iter().map(|one| {
        json!({
            "maxSkew": one.max_skew,
            "topologyKey": &*one.topology_key,
            "whenUnsatisfiable": if one.hard { "DoNotSchedule" } else { "ScheduleAnyway" },
            "labelSelector": label_selector(&one.selector),
            "minDomains": one.min_domains,
            "nodeAffinityPolicy": policy(one.honor_affinity),
            "nodeTaintsPolicy": policy(one.honor_taints),
        })
    });
    let uid = template.uid.as_deref().filter(|_| node.is_none()).unwrap_or(name);
    let (claims, given): (Vec<Value>, Vec<Option<Value>>) = template.claims.iter().enumerate().map(gear::used).unzip();
    let mut pod = json!({
        "metadata": { "name": name, "namespace": &*template.namespace, "uid": uid, "labels": pairs(&template.labels) },
        "spec": {
            "nodeName": node.or(template.node_name.as_deref()).unwrap_or(""),
            "nodeSelector": pairs(&template.node_selector),
            "containers": containers(template),
            "tolerations": template.tolerations.iter().map(toleration).collect::<Vec<_>>(),
            "resourceClaims": claims,
            "volumes": template.volumes.iter().enumerate().map(|(at, one)| named(at, volume(one))).collect::<Vec<_>>(),
            "topologySpreadConstraints": spread.collect::<Vec<_>>(),
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": required,
                    "preferredDuringSchedulingIgnoredDuringExecution": template.preferred.iter().map(preferred).collect::<Vec<_>>(),
                },
                "podAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": terms(&template.affinity),
                    "preferredDuringSchedulingIgnoredDuringExecution": weighted(&template.preferred_affinity),
                },
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": terms(&template.anti_affinity),
                    "preferredDuringSchedulingIgnoredDuringExecution": weighted(&template.preferred_anti_affinity),
                },
            },
        },
        "status": { "resourceClaimStatuses": given.into_iter().flatten().collect::<Vec<_>>() },
    });
    if terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

fn toleration(one: &Toleration) -> Value {
    let exists = one.operator == TolerationOperator::Exists;
    json!({
        "key": one.key,
        "operator": if exists { "Exists" } else { "Equal" },
        "value": if exists { "" } else { &*one.value },
        "effect": one.effect.map_or("", effect),
    })
}

fn taint(one: &Taint) -> Value {
    json!({ "key": one.key, "value": one.value, "effect": effect(one.effect) })
}

pub fn node(spec: &NodeSpec) -> Value {
    let has = &spec.allocatable;
    let mut allocatable = Map::from_iter([
        ("cpu".to_string(), json!(format!("{}m", has.milli_cpu))),
        ("memory".to_string(), json!(has.memory.to_string())),
        ("ephemeral-storage".to_string(), json!(has.ephemeral_storage.to_string())),
        ("pods".to_string(), json!(spec.pods.to_string())),
    ]);
    allocatable.extend(has.extended.iter().map(|(name, amount)| (name.to_string(), json!(amount.to_string()))));
    let image = |(name, size): &(Arc<str>, i64)| json!({ "names": [&**name], "sizeBytes": size });
    json!({
        "metadata": { "name": &*spec.name, "labels": pairs(&spec.labels) },
        "spec": { "unschedulable": spec.unschedulable, "taints": spec.taints.iter().map(taint).collect::<Vec<_>>() },
        "status": { "allocatable": allocatable, "images": spec.images.iter().map(image).collect::<Vec<_>>() },
    })
}

fn named(at: usize, mut volume: Value) -> Value {
    volume["name"] = json!(format!("v{at}"));
    volume
}

fn volume(volume: &VolumeUse) -> Value {
    match volume {
        VolumeUse::Claim(name) => json!({ "persistentVolumeClaim": { "claimName": &**name } }),
        VolumeUse::Ephemeral(_) => json!({ "ephemeral": {} }),
        VolumeUse::Disk(Disk::Gce { name, read_only }) => {
            json!({ "gcePersistentDisk": { "pdName": &**name, "readOnly": read_only } })
        }
        VolumeUse::Disk(Disk::Ebs { id }) => json!({ "awsElasticBlockStore": { "volumeID": &**id } }),
        VolumeUse::Disk(Disk::Iscsi { iqn, read_only }) => json!({ "iscsi": { "iqn": &**iqn, "readOnly": read_only } }),
        VolumeUse::Disk(Disk::Rbd { monitors, pool, image, read_only }) => {
            let monitors: Vec<&str> = monitors.iter().map(|one| &**one).collect();
            json!({ "rbd": { "monitors": monitors, "pool": &**pool, "image": &**image, "readOnly": read_only } })
        }
    }
}

fn modes(modes: AccessModes) -> Vec<&'static str> {
    let all = [
        (AccessModes::READ_WRITE_ONCE, "ReadWriteOnce"),
        (AccessModes::READ_ONLY_MANY, "ReadOnlyMany"),
        (AccessModes::READ_WRITE_MANY, "ReadWriteMany"),
        (AccessModes::READ_WRITE_ONCE_POD, "ReadWriteOncePod"),
    ];
    all.iter().filter(|(mode, _)| modes.contains(*mode)).map(|(_, name)| *name).collect()
}

fn volume_mode(block: bool) -> &'static str {
    if block { "Block" } else { "Filesystem" }
}

fn volume_claim((namespace, name): &Key, claim: &VolumeClaim) -> Value {
    let mut annotations = Map::new();
    if claim.bind_completed {
        annotations.insert("pv.kubernetes.io/bind-completed".into(), json!("yes"));
    }
    if let Some(node) = &claim.selected_node {
        annotations.insert("volume.kubernetes.io/selected-node".into(), json!(&**node));
    }
    let requests = claim.size.map_or(json!({}), |size| json!({ "storage": size.to_string() }));
    let mut metadata =
        json!({ "namespace": &**namespace, "name": &**name, "uid": &*claim.uid, "annotations": annotations });
    if claim.terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "storageClassName": &*claim.class,
            "volumeName": claim.volume.as_deref().unwrap_or(""),
            "accessModes": modes(claim.access_modes),
            "volumeMode": volume_mode(claim.block),
            "resources": { "requests": requests },
            "selector": label_selector(&claim.selector),
        },
        "status": { "phase": if claim.lost { "Lost" } else { "Pending" } },
    })
}

fn persistent_volume(name: &str, volume: &Volume) -> Value {
    let mut metadata = json!({ "name": name, "labels": pairs(&volume.labels) });
    if volume.terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let required = |terms: &Vec<NodeSelectorTerm>| json!({ "required": { "nodeSelectorTerms": terms.iter().map(node_term).collect::<Vec<_>>() } });
    let reference = |one: &kelson_sched::ClaimReference| json!({ "namespace": &*one.namespace, "name": &*one.name, "uid": &*one.uid });
    let csi = |(driver, handle): &(Arc<str>, Arc<str>)| json!({ "driver": &**driver, "volumeHandle": &**handle });
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": {
            "capacity": { "storage": volume.capacity.to_string() },
            "storageClassName": &*volume.class,
            "accessModes": modes(volume.access_modes),
            "volumeMode": volume_mode(volume.block),
            "nodeAffinity": volume.affinity.as_ref().map(required),
            "claimRef": volume.claim.as_ref().map(reference),
            "csi": volume.csi.as_ref().map(csi),
        },
        "status": { "phase": if volume.available { "Available" } else { "Released" } },
    })
}

/// Everything that is known of storage, as API objects.
pub fn disks(disks: &Disks) -> Vec<Value> {
    let mut objects: Vec<Value> = disks.claims.iter().map(|(key, claim)| volume_claim(key, claim)).collect();
    objects.extend(disks.volumes.iter().map(|(name, volume)| persistent_volume(name, volume)));
    for (name, class) in &disks.classes {
        let topologies = class.allowed_topologies.iter().map(|term| {
            let expression = |one: &Requirement| {
                json!({ "key": &*one.key, "values": one.values.iter().map(|value| &**value).collect::<Vec<_>>() })
            };
            json!({ "matchLabelExpressions": term.expressions.iter().map(expression).collect::<Vec<_>>() })
        });
        objects.push(json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": { "name": &**name },
            "provisioner": &*class.provisioner,
            "volumeBindingMode": if class.wait_for_consumer { "WaitForFirstConsumer" } else { "Immediate" },
            "allowedTopologies": topologies.collect::<Vec<_>>(),
        }));
    }
    let storage = |kind: &str, mut rest: Value| {
        rest["apiVersion"] = json!("storage.k8s.io/v1");
        rest["kind"] = json!(kind);
        rest
    };
    for (node, limits) in &disks.limits {
        let driver = |(name, count): &(Arc<str>, i64)| json!({ "name": &**name, "nodeID": "n", "allocatable": { "count": count } });
        let drivers: Vec<Value> = limits.iter().map(driver).collect();
        objects.push(storage("CSINode", json!({ "metadata": { "name": &**node }, "spec": { "drivers": drivers } })));
    }
    for name in &disks.tracked {
        objects.push(storage(
            "CSIDriver",
            json!({ "metadata": { "name": &**name }, "spec": { "storageCapacity": true } }),
        ));
    }
    for ((namespace, name), one) in &disks.capacities {
        objects.push(storage(
            "CSIStorageCapacity",
            json!({
                "metadata": { "namespace": &**namespace, "name": &**name },
                "storageClassName": &*one.class,
                "nodeTopology": label_selector(&one.topology),
                "maximumVolumeSize": one.limit.map(|limit| limit.to_string()),
            }),
        ));
    }
    for (name, one) in &disks.attachments {
        objects.push(storage(
            "VolumeAttachment",
            json!({
                "metadata": { "name": &**name },
                "spec": { "attacher": &*one.driver, "nodeName": &*one.node, "source": { "persistentVolumeName": &*one.volume } },
            }),
        ));
    }
    objects
}

/// A profile, as a configuration file writes it.
pub fn profile(profile: &Profile) -> Value {
    let weights = &profile.weights;
    // Its score is nothing without its filter.
    let devices = profile.filters.contains(Filter::DynamicResources);
    let scores = [
        ("NodeResourcesFit", weights.fit),
        ("NodeResourcesBalancedAllocation", weights.balanced_allocation),
        ("ImageLocality", weights.image_locality),
        ("TaintToleration", weights.taint_toleration),
        ("NodeAffinity", weights.node_affinity),
        ("PodTopologySpread", weights.topology_spread),
        ("InterPodAffinity", weights.pod_affinity),
        ("DynamicResources", if devices { weights.dynamic_resources } else { 0 }),
    ];
    let weighted = scores.iter().filter(|(_, weight)| *weight != 0);
    let enabled: Vec<Value> = weighted.map(|(name, weight)| json!({ "name": name, "weight": weight })).collect();
    let off = Filter::ALL.iter().filter(|filter| !profile.filters.contains(**filter));
    let off: Vec<Value> = off.map(|filter| json!({ "name": filter.name() })).collect();
    let names = |names: &[Arc<str>]| names.iter().map(|name| json!(&**name)).collect::<Vec<_>>();
    let resource = |name: &str, weight: i64| json!({ "name": name, "weight": weight });
    let fit_resources: Vec<Value> =
        profile.fit_resources.iter().map(|(name, weight)| resource(name, *weight)).collect();
    let balanced: Vec<Value> = profile.balanced_resources.iter().map(|name| resource(name, 1)).collect();
    let strategy = match &profile.fit {
        FitStrategy::LeastAllocated => json!({ "type": "LeastAllocated", "resources": fit_resources }),
        FitStrategy::MostAllocated => json!({ "type": "MostAllocated", "resources": fit_resources }),
        FitStrategy::RequestedToCapacityRatio(shape) => {
            let point = |(utilization, score): &(i64, i64)| json!({ "utilization": utilization, "score": score });
            let shape: Vec<Value> = shape.iter().map(point).collect();
            let ratio = json!({ "shape": shape });
            json!({ "type": "RequestedToCapacityRatio", "resources": fit_resources, "requestedToCapacityRatio": ratio })
        }
    };
    let added = profile
        .added_affinity
        .as_ref()
        .map(|terms| json!({ "nodeSelectorTerms": terms.iter().map(node_term).collect::<Vec<_>>() }));
    let preferences = profile.added_preferences.iter();
    let preferences: Vec<Value> =
        preferences.map(|(weight, term)| json!({ "weight": weight, "preference": node_term(term) })).collect();
    json!({
        "schedulerName": &*profile.name,
        "plugins": {
            "preFilter": { "disabled": off },
            "filter": { "disabled": off },
            "reserve": { "disabled": off },
            "preScore": { "disabled": [{ "name": "*" }], "enabled": enabled.iter().filter(|one| one["name"] != "ImageLocality" && one["name"] != "DynamicResources").map(|one| json!({ "name": one["name"] })).collect::<Vec<_>>() },
            "score": { "disabled": [{ "name": "*" }], "enabled": enabled },
        },
        "pluginConfig": [
            { "name": "NodeResourcesFit", "args": {
                "ignoredResources": names(&profile.ignored_resources),
                "ignoredResourceGroups": names(&profile.ignored_groups),
                "scoringStrategy": strategy,
            } },
            { "name": "NodeResourcesBalancedAllocation", "args": { "resources": balanced } },
            { "name": "InterPodAffinity", "args": {
                "hardPodAffinityWeight": profile.hard_pod_affinity_weight,
                "ignorePreferredTermsOfExistingPods": profile.ignore_preferred_terms_of_existing_pods,
            } },
            { "name": "NodeAffinity", "args": { "addedAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": added,
                "preferredDuringSchedulingIgnoredDuringExecution": preferences,
            } } },
        ],
    })
}
