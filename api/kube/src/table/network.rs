//! The rows of services and the addresses behind them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use kelson_wire::kube::meta::null_default;
use serde::Deserialize;

use super::view::{Cells, Labels, Meta, Text, View, format_labels, or};

/// How many addresses or ports a cell names.
const SHOWN: usize = 3;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: ServiceSpec<'a>,
    #[serde(borrow)]
    status: ServiceStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, rename = "clusterIP")]
    cluster_ip: Text<'a>,
    #[serde(borrow, rename = "clusterIPs", deserialize_with = "null_default")]
    cluster_ips: Vec<Text<'a>>,
    #[serde(borrow, rename = "externalIPs", deserialize_with = "null_default")]
    external_ips: Vec<Text<'a>>,
    #[serde(borrow)]
    external_name: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    ports: Vec<Port<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    selector: Labels<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port<'a> {
    port: Option<i64>,
    node_port: i64,
    #[serde(borrow)]
    protocol: Text<'a>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus<'a> {
    #[serde(borrow)]
    load_balancer: LoadBalancer<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    ingress: Vec<Ingress<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ingress<'a> {
    #[serde(borrow)]
    ip: Text<'a>,
    #[serde(borrow)]
    hostname: Text<'a>,
}

impl Service<'_> {
    fn external_ip(&self) -> String {
        let mut addresses: Vec<&str> = match &*self.spec.kind {
            "ExternalName" => return self.spec.external_name.to_string(),
            "ClusterIP" | "NodePort" => Vec::new(),
            "LoadBalancer" => {
                let ingress = self.status.load_balancer.ingress.iter();
                let names = ingress.map(|ingress| or(&ingress.ip, &ingress.hostname)).filter(|name| !name.is_empty());
                names.collect::<BTreeSet<_>>().into_iter().collect()
            }
            _ => return "<unknown>".to_owned(),
        };
        addresses.extend(self.spec.external_ips.iter().map(|ip| &**ip));
        let none = if &*self.spec.kind == "LoadBalancer" { "<pending>" } else { "<none>" };
        or(&addresses.join(","), none).to_owned()
    }

    fn ports(&self) -> String {
        let port = |port: &Port<'_>| {
            let number = port.port.unwrap_or_default();
            match port.node_port {
                0 => format!("{number}/{}", port.protocol),
                node_port => format!("{number}:{node_port}/{}", port.protocol),
            }
        };
        or(&self.spec.ports.iter().map(port).collect::<Vec<_>>().join(","), "<none>").to_owned()
    }
}

impl<'a> View<'a> for Service<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let ip = self.spec.cluster_ips.first().map_or(&*self.spec.cluster_ip, |ip| ip);
        vec![
            (&self.metadata.name).into(),
            (&self.spec.kind).into(),
            or(ip, "<none>").into(),
            self.external_ip().into(),
            self.ports().into(),
            self.metadata.age(now).into(),
            format_labels(&self.spec.selector).into(),
        ]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoints<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    subsets: Vec<Subset<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subset<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    addresses: Vec<Ingress<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    ports: Vec<Port<'a>>,
}

/// The first few of a list, and how many more there are.
fn shorten(items: impl Iterator<Item = String>, none: &str) -> String {
    let mut shown = Vec::new();
    let mut count = 0;
    for item in items {
        count += 1;
        if count <= SHOWN {
            shown.push(item);
        }
    }
    let text = shown.join(",");
    if count > SHOWN { format!("{text} + {} more...", count - SHOWN) } else { or(&text, none).to_owned() }
}

impl<'a> View<'a> for Endpoints<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let addresses = self.subsets.iter().flat_map(|subset| {
            let bare = subset.ports.is_empty().then_some(None);
            let ports = subset.ports.iter().map(|port| Some(port.port.unwrap_or_default())).chain(bare);
            ports.flat_map(|port| {
                subset.addresses.iter().map(move |address| match port {
                    None => address.ip.to_string(),
                    Some(port) if address.ip.contains(':') => format!("[{}]:{port}", address.ip),
                    Some(port) => format!("{}:{port}", address.ip),
                })
            })
        });
        let none = if self.subsets.is_empty() { "<none>" } else { "" };
        vec![(&self.metadata.name).into(), shorten(addresses, none).into(), self.metadata.age(now).into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    address_type: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    endpoints: Vec<Endpoint<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    ports: Vec<Port<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    addresses: Vec<Text<'a>>,
}

impl<'a> View<'a> for EndpointSlice<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let ports = self.ports.iter().map(|port| match (port.port, &port.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_string(),
            (None, None) => "*".to_owned(),
        });
        let addresses = self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().map(Text::to_string));
        vec![
            (&self.metadata.name).into(),
            (&self.address_type).into(),
            shorten(ports, "<unset>").into(),
            shorten(addresses, "<unset>").into(),
            self.metadata.age(now).into(),
        ]
    }
}
