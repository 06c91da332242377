//! The row of a node.

use std::collections::BTreeSet;
use std::time::SystemTime;

use kelson_wire::kube::meta::null_default;
use serde::Deserialize;

use super::duration;
use super::view::{Cells, Condition, Labels, Text, View, or};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    spec: Spec,
    #[serde(borrow)]
    status: Status<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    creation_timestamp: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    labels: Labels<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    unschedulable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    conditions: Vec<Condition<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    addresses: Vec<Address<'a>>,
    #[serde(borrow)]
    node_info: Info<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    address: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info<'a> {
    #[serde(borrow)]
    kubelet_version: Text<'a>,
    #[serde(borrow)]
    os_image: Text<'a>,
    #[serde(borrow)]
    kernel_version: Text<'a>,
    #[serde(borrow)]
    container_runtime_version: Text<'a>,
    #[serde(borrow)]
    architecture: Text<'a>,
}

impl Node<'_> {
    fn status(&self) -> String {
        let ready = self.status.conditions.iter().find(|condition| &*condition.kind == "Ready");
        let mut status = match ready {
            Some(ready) if &*ready.status == "True" => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if self.spec.unschedulable {
            status.push_str(",SchedulingDisabled");
        }
        status
    }

    fn roles(&self) -> String {
        let mut roles = BTreeSet::new();
        for (key, value) in &self.metadata.labels {
            match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => drop(roles.insert(role)),
                None if &**key == "kubernetes.io/role" && !value.is_empty() => drop(roles.insert(value)),
                _ => {}
            }
        }
        let roles: Vec<&str> = roles.into_iter().collect();
        or(&roles.join(","), "<none>").to_owned()
    }

    fn address(&self, kind: &str) -> &str {
        let found = self.status.addresses.iter().find(|address| &*address.kind == kind);
        found.map_or("<none>", |found| &found.address)
    }
}

impl<'a> View<'a> for Node<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let info = &self.status.node_info;
        let mut kernel = or(&info.kernel_version, "<unknown>").to_owned();
        if !info.architecture.is_empty() {
            kernel = format!("{kernel} ({})", info.architecture);
        }
        vec![
            (&self.metadata.name).into(),
            self.status().into(),
            self.roles().into(),
            duration::since(self.metadata.creation_timestamp.as_deref(), now).into(),
            (&info.kubelet_version).into(),
            self.address("InternalIP").into(),
            self.address("ExternalIP").into(),
            or(&info.os_image, "<unknown>").into(),
            kernel.into(),
            or(&info.container_runtime_version, "<unknown>").into(),
        ]
    }
}
