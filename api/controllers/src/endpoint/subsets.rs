//! The older Endpoints object: what `kubectl describe service` and old clients read.

use std::sync::Arc;

use serde_json::{Value, json};

use super::routes::{address, families, ports, target};
use crate::view::{EndpointPort, Pod, Service};

/// Most addresses of one object; what is beyond is cut off and the object says so.
pub(super) const CAPACITY: usize = 1000;

/// The subsets, and whether addresses were cut off.
pub(super) fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Value, bool) {
    struct Subset<'a> {
        ports: Vec<EndpointPort>,
        ready: Vec<&'a Pod>,
        not_ready: Vec<&'a Pod>,
    }
    let family = families(service).first().copied().unwrap_or("IPv4");
    let publish = service.spec.publish_not_ready_addresses;
    let mut subsets: Vec<Subset> = Vec::new();
    let (mut ready_total, mut total) = (0, 0);
    for pod in pods.iter().filter(|pod| publish || pod.deleted == 0) {
        if address(pod, family).is_none() {
            continue;
        }
        let ports = ports(service, pod);
        if ports.is_empty() && !service.spec.ports.is_empty() {
            continue;
        }
        let ready = publish || pod.ready;
        let at = match subsets.iter().position(|subset| subset.ports == ports) {
            Some(at) => at,
            None => {
                subsets.push(Subset { ports, ready: Vec::new(), not_ready: Vec::new() });
                subsets.len() - 1
            }
        };
        if ready {
            subsets[at].ready.push(pod)
        } else {
            subsets[at].not_ready.push(pod)
        }
        ready_total += usize::from(ready);
        total += 1;
    }
    let cut = total > CAPACITY;
    // Ready addresses go first.
    let (mut ready_room, mut other_room) = (CAPACITY, CAPACITY.saturating_sub(ready_total));
    let mut out = Vec::new();
    for mut subset in subsets {
        take(&mut subset.ready, &mut ready_room);
        take(&mut subset.not_ready, &mut other_room);
        if subset.ready.is_empty() && subset.not_ready.is_empty() {
            continue;
        }
        let list = |pods: &[&Pod]| -> Vec<Value> { pods.iter().map(|pod| entry(service, pod, family)).collect() };
        let mut object = json!({});
        for (name, pods) in [("addresses", &subset.ready), ("notReadyAddresses", &subset.not_ready)] {
            if !pods.is_empty() {
                object[name] = list(pods).into();
            }
        }
        if !subset.ports.is_empty() {
            object["ports"] = subset.ports.iter().map(port).collect();
        }
        out.push(object);
    }
    (Value::Array(out), cut)
}

fn take(pods: &mut Vec<&Pod>, room: &mut usize) {
    pods.truncate(*room);
    *room -= pods.len();
}

fn port(port: &EndpointPort) -> Value {
    let mut value = json!({"port": port.port, "protocol": port.protocol});
    if !port.name.is_empty() {
        value["name"] = json!(port.name);
    }
    if let Some(protocol) = &port.app_protocol {
        value["appProtocol"] = json!(protocol);
    }
    value
}

fn entry(service: &Service, pod: &Pod, family: &str) -> Value {
    let mut value = json!({"ip": address(pod, family), "targetRef": target(pod)});
    if !pod.node.is_empty() {
        value["nodeName"] = json!(*pod.node);
    }
    if !pod.hostname.is_empty() && **pod.subdomain == *service.metadata.name {
        value["hostname"] = json!(*pod.hostname);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::routes::tests::{pod, service};
    use super::*;

    #[test]
    fn ready_and_not_ready_are_apart() {
        let (subsets, cut) = subsets(&service(), &[pod(0, true), pod(1, false)]);
        assert!(!cut);
        assert_eq!(subsets[0]["addresses"][0]["ip"], "10.1.0.0");
        assert_eq!(subsets[0]["notReadyAddresses"][0]["targetRef"]["name"], "web-00001");
        assert_eq!(subsets[0]["ports"][0], json!({"name": "http", "port": 8080, "protocol": "TCP"}));
    }

    #[test]
    fn beyond_a_thousand_ready_ones_are_kept() {
        let pods: Vec<_> = (0..1500).map(|number| pod(number, number >= 600)).collect();
        let (subsets, cut) = subsets(&service(), &pods);
        assert!(cut);
        let count = |name: &str| subsets[0][name].as_array().map_or(0, Vec::len);
        assert_eq!((count("addresses"), count("notReadyAddresses")), (900, 100));
    }
}
