//! One VM and its agent: identity, what it offers, what its pods take.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::Arc;

use kelson_wire::kube::meta::StringMap;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use crate::Millis;
use crate::config::Config;
use crate::digest::{hex64, mix};
use crate::lease::Lease;
use crate::plan::{HostPort, Plan};
use crate::resources::Amounts;
use crate::size::VmSize;
use crate::view;

/// Version that the agents report.
pub(crate) const KUBELET_VERSION: &str = "v1.36.3";
/// Most images in a node's status, as the kubelet's own default.
const MAX_IMAGES: usize = 50;

/// Whether an agent can act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// It runs on, but reaches nobody and nobody reaches it.
    Partitioned,
    /// It stands still.
    Crashed,
}

/// One VM and its agent.
pub(crate) struct Node {
    pub name: Arc<str>,
    pub size: &'static VmSize,
    pub pool: Arc<str>,
    pub zone: Arc<str>,
    pub mode: Mode,
    /// Whether its Node object is known to exist; its uid is empty until seen.
    pub exists: bool,
    pub uid: Arc<str>,
    /// Whether the API shows it as Ready.
    pub ready: bool,
    /// When its agent came up: what its conditions date from.
    pub booted: Millis,
    /// Its status is to be written.
    pub stale: bool,
    pub queued: bool,
    pub in_flight: bool,
    pub attempts: u8,
    pub lease: Lease,
    /// Network of its pods.
    pub network: u32,
    pub prefix: u8,
    addresses: [u64; 4],
    pub used: Amounts,
    pub pods: u32,
    pub host_ports: Vec<HostPort>,
    images: Vec<(u32, Millis)>,
    /// Labels that differ from those it registers with.
    pub labels: Option<Box<StringMap>>,
    pub taints: Box<[view::Taint]>,
}

/// What all nodes have in common.
pub(crate) struct Shape {
    pub region: Arc<str>,
    pub max_pods: u32,
    pub seed: u64,
    pub address: String,
    /// 0: no kubelet server.
    pub port: u16,
}

impl Node {
    pub fn new(name: &str, size: &'static VmSize, pool: Arc<str>, zone: Arc<str>) -> Node {
        Node {
            name: name.into(),
            size,
            pool,
            zone,
            mode: Mode::Up,
            exists: false,
            uid: "".into(),
            ready: false,
            booted: 0,
            stale: false,
            queued: false,
            in_flight: false,
            attempts: 0,
            lease: Lease::default(),
            network: 0,
            prefix: 24,
            addresses: [0; 4],
            used: Amounts::default(),
            pods: 0,
            host_ports: Vec::new(),
            images: Vec::new(),
            labels: None,
            taints: Box::default(),
        }
    }

    /// What its pods may request in all.
    pub fn allocatable(&self, shape: &Shape) -> Amounts {
        Amounts {
            cpu: self.size.allocatable_cpu_millis(),
            memory: self.size.allocatable_memory_bytes(shape.max_pods),
            storage: self.size.allocatable_storage_bytes(),
            gpus: i64::from(self.size.gpus),
        }
    }

    /// Counts a pod in. Whether it may be is [`crate::admission`]'s matter.
    pub fn take(&mut self, plan: &Plan) {
        self.used = self.used.plus(plan.requests);
        self.pods += 1;
        self.host_ports.extend(plan.host_ports.iter().cloned());
    }

    /// Counts a pod out.
    pub fn release(&mut self, plan: &Plan, address: Option<Ipv4Addr>) {
        self.used = self.used.minus(plan.requests);
        self.pods = self.pods.saturating_sub(1);
        for port in &plan.host_ports {
            if let Some(at) = self.host_ports.iter().position(|known| known == port) {
                self.host_ports.swap_remove(at);
            }
        }
        if let Some(bit) = address.filter(|_| !plan.host_network).and_then(|address| self.bit(address)) {
            self.addresses[bit / 64] &= !(1 << (bit % 64));
        }
    }

    /// A free address of its pod network. The first two are the network's and the bridge's own.
    pub fn new_address(&mut self) -> Option<Ipv4Addr> {
        let size = 1usize << (32 - u32::from(self.prefix)).min(8);
        let bit = (2..size - 1).find(|bit| self.addresses[bit / 64] & (1 << (bit % 64)) == 0)?;
        self.addresses[bit / 64] |= 1 << (bit % 64);
        Some(Ipv4Addr::from(self.network + u32::try_from(bit).ok()?))
    }

    /// Marks an address as taken, that of a pod which ran before the agent came up.
    pub fn keep_address(&mut self, address: Ipv4Addr) {
        if let Some(bit) = self.bit(address) {
            self.addresses[bit / 64] |= 1 << (bit % 64);
        }
    }

    fn bit(&self, address: Ipv4Addr) -> Option<usize> {
        let offset = u32::from(address).checked_sub(self.network)?;
        (offset < 256).then_some(offset as usize)
    }

    /// When an image is or will be at hand. `None` if nobody has pulled it.
    pub fn image_at(&self, image: u32) -> Option<Millis> {
        self.images.iter().find(|(known, _)| *known == image).map(|(_, ready)| *ready)
    }

    /// Notes an image that is at hand from `ready` on. The oldest goes when there are too many.
    pub fn add_image(&mut self, image: u32, ready: Millis) {
        if self.image_at(image).is_none() {
            if self.images.len() >= MAX_IMAGES {
                self.images.remove(0);
            }
            self.images.push((image, ready));
        }
    }

    /// Network of its pods, as `spec.podCIDR` has it.
    pub fn pod_cidr(&self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }

    /// Takes the network that the API has for it.
    pub fn adopt_cidr(&mut self, cidr: &str) {
        let parsed = cidr
            .split_once('/')
            .and_then(|(address, prefix)| Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?)));
        if let Some((address, prefix @ 8..=30)) = parsed {
            (self.network, self.prefix) = (u32::from(address), prefix);
        }
    }

    fn own_labels<'a>(&'a self, shape: &'a Shape) -> Vec<(&'static str, Cow<'a, str>)> {
        let mut labels: Vec<(&'static str, Cow<'a, str>)> = vec![
            ("kubernetes.io/hostname", self.name.as_ref().into()),
            ("kubernetes.io/os", "linux".into()),
            ("kubernetes.io/arch", self.size.arch.into()),
            ("node.kubernetes.io/instance-type", self.size.name.into()),
            ("topology.kubernetes.io/region", shape.region.as_ref().into()),
            ("kubernetes.azure.com/agentpool", self.pool.as_ref().into()),
            ("agentpool", self.pool.as_ref().into()),
        ];
        if !self.zone.is_empty() {
            labels.push(("topology.kubernetes.io/zone", format!("{}-{}", shape.region, self.zone).into()));
        }
        labels
    }

    /// Value of one of its labels, as the API has them.
    pub fn label<'a>(&'a self, key: &str, shape: &'a Shape) -> Option<Cow<'a, str>> {
        match &self.labels {
            Some(labels) => labels.get(key).map(|value| value.as_str().into()),
            None => self.own_labels(shape).into_iter().find(|(known, _)| *known == key).map(|(_, value)| value),
        }
    }

    /// Takes what the API says about it.
    pub fn observe(&mut self, node: view::Node, shape: &Shape) {
        self.exists = true;
        self.uid = node.metadata.uid;
        self.ready = is_ready(&node.status);
        let own = self.own_labels(shape);
        let labels = node.metadata.labels;
        let same =
            labels.len() == own.len() && own.iter().all(|(key, value)| labels.get(*key).is_some_and(|l| l == value));
        self.labels = (!same).then(|| Box::new(labels));
        self.taints = node.spec.taints.into();
        if !node.spec.pod_cidr.is_empty() {
            self.adopt_cidr(&node.spec.pod_cidr);
        }
    }

    /// The Node object that it registers with, status and all.
    pub fn object(&self, shape: &Shape, images: &Images, now: Millis) -> Value {
        let labels: Map<String, Value> =
            self.own_labels(shape).into_iter().map(|(key, value)| (key.into(), Value::from(value.as_ref()))).collect();
        let cidr = self.pod_cidr();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": &*self.name, "labels": labels},
            "spec": {
                "podCIDR": cidr,
                "podCIDRs": [cidr],
                "providerID": format!("azure:///subscriptions/simulated/resourceGroups/kelson/providers/Microsoft.Compute/virtualMachines/{}", self.name),
            },
            "status": self.status(shape, images, now),
        })
    }

    /// Its whole status.
    pub fn status(&self, shape: &Shape, images: &Images, now: Millis) -> Value {
        let allocatable = self.allocatable(shape);
        let amounts = |cpu: String, memory: i64, storage: i64| {
            let mut amounts = Map::new();
            amounts.insert("cpu".into(), cpu.into());
            amounts.insert("memory".into(), format!("{}Ki", memory / 1024).into());
            amounts.insert("ephemeral-storage".into(), format!("{}Ki", storage / 1024).into());
            amounts.insert("hugepages-2Mi".into(), "0".into());
            amounts.insert("pods".into(), shape.max_pods.to_string().into());
            if self.size.gpus > 0 {
                amounts.insert("nvidia.com/gpu".into(), self.size.gpus.to_string().into());
            }
            Value::Object(amounts)
        };
        let port = if shape.port == 0 { json!({}) } else { json!({"kubeletEndpoint": {"Port": shape.port}}) };
        json!({
            "capacity": amounts(self.size.vcpus.to_string(), self.size.memory_bytes(), i64::from(self.size.os_disk_gib()) << 30),
            "allocatable": amounts(format!("{}m", allocatable.cpu), allocatable.memory, allocatable.storage),
            "conditions": self.conditions(now),
            "addresses": [
                {"type": "InternalIP", "address": shape.address},
                {"type": "Hostname", "address": &*self.name},
            ],
            "daemonEndpoints": port,
            "nodeInfo": self.info(shape),
            "images": self.image_list(images, now),
        })
    }

    /// What changes in its status between two heartbeats.
    pub fn heartbeat(&self, images: &Images, now: Millis) -> Value {
        json!({"status": {"conditions": self.conditions(now), "images": self.image_list(images, now)}})
    }

    fn conditions(&self, now: Millis) -> Value {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": stamp(now), "lastTransitionTime": stamp(self.booted),
            })
        };
        json!([
            condition(
                "MemoryPressure",
                "False",
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available"
            ),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ])
    }

    fn info(&self, shape: &Shape) -> Value {
        let mut machine = String::new();
        hex64(mix(shape.seed, &self.name), &mut machine);
        let uuid = |text: &str| {
            format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..32])
        };
        json!({
            "machineID": &machine[..32],
            "systemUUID": uuid(&machine),
            "bootID": uuid(&machine[32..]),
            "kernelVersion": "6.8.0-1021-azure",
            "osImage": "Ubuntu 24.04.3 LTS",
            "containerRuntimeVersion": "containerd://2.1.4",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": self.size.arch,
        })
    }

    fn image_list(&self, images: &Images, now: Millis) -> Value {
        let list = self.images.iter().filter(|(_, ready)| *ready <= now).filter_map(|(image, _)| images.name(*image));
        list.map(|name| json!({"names": [crate::image::normalized(name)], "sizeBytes": crate::image::bytes(name)}))
            .collect()
    }
}

/// Whether a node's status says that it is Ready.
pub(crate) fn is_ready(status: &view::NodeStatus) -> bool {
    status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

/// A moment as the API writes it.
pub(crate) fn stamp(at: Millis) -> String {
    kelson_wire::kube::timestamp::format(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at))
}

/// The images that any node has, by number.
#[derive(Default)]
pub(crate) struct Images {
    names: Vec<Arc<str>>,
    ids: FxHashMap<Arc<str>, u32>,
}

/// Most image names that are told apart.
const MAX_IMAGE_NAMES: usize = 100_000;

impl Images {
    /// The image's number. Past the bound all new ones share one, so that they count as pulled with each other.
    pub fn id(&mut self, image: &str) -> u32 {
        if let Some(id) = self.ids.get(image) {
            return *id;
        }
        if self.names.len() >= MAX_IMAGE_NAMES {
            return u32::MAX;
        }
        let id = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = image.into();
        self.names.push(name.clone());
        self.ids.insert(name, id);
        id
    }

    pub fn name(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize).map(|name| &**name)
    }
}

/// Ranges that pod networks are cut from; between them lies 10.96.0.0/12, which Services have.
const RANGES: [(u32, u8); 3] = [(0x0a80_0000, 9), (0x0a00_0000, 10), (0x0a40_0000, 11)];

/// The pod network of the VM with this number: a /24 each for as many as there is room for, else a /25 each.
pub(crate) fn network(index: u32, nodes: usize) -> (u32, u8) {
    let prefix: u8 = if nodes <= 1 << 15 { 24 } else { 25 };
    let mut left = index;
    for (base, length) in RANGES {
        let count = 1u32 << (prefix - length);
        if left < count {
            return (base + (left << (32 - prefix)), prefix);
        }
        left -= count;
    }
    // More VMs than networks: the last ones share.
    (RANGES[0].0 + ((left % (1 << 15)) << (32 - prefix)), prefix)
}

/// The configured zone of the VM with this number.
pub(crate) fn zone(config: &Config, index: usize) -> &str {
    if config.zones.is_empty() { "" } else { &config.zones[index % config.zones.len()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_do_not_overlap() {
        for (nodes, size) in [(5_000usize, 256u32), (100_000, 128)] {
            let mut bases: Vec<u32> = (0..nodes as u32).map(|index| network(index, nodes).0).collect();
            bases.sort_unstable();
            assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= size));
            // 10.96.0.0/12 is the Services'.
            assert!(bases.iter().all(|base| base >> 20 != 0x0a60_0000 >> 20));
        }
    }

    #[test]
    fn addresses_are_given_once_and_again_after_release() {
        let mut node = Node::new("n", &crate::size::CATALOGUE[0], "p".into(), "".into());
        (node.network, node.prefix) = network(7, 100);
        let all: Vec<Ipv4Addr> = std::iter::from_fn(|| node.new_address()).collect();
        assert_eq!(all.len(), 253);
        assert_eq!(all[0], Ipv4Addr::new(10, 128, 7, 2));
        let plan = Plan::of(&view::Pod::default(), &crate::Timings::default());
        node.take(&plan);
        node.release(&plan, Some(all[9]));
        assert_eq!(node.new_address(), Some(all[9]));
        assert_eq!(node.new_address(), None);
    }
}
