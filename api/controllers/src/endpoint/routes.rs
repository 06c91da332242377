//! Which pods a Service routes to, and through which ports.

use std::sync::Arc;

use kelson_wire::kube::meta::StringMap;

use crate::view::{Endpoint, EndpointConditions, EndpointPort, Pod, Service, ServicePort, TargetRef};

/// Pods of one address family that resolve the Service's ports to the same numbers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Group {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Sorted.
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// The pods that the Service selects and that can be routed to, now or soon.
pub(super) fn selected(service: &Service, pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    // Pods of one template share their labels: compare each distinct set once in a row.
    let mut last: Option<(*const StringMap, bool)> = None;
    let mut chosen = pods;
    chosen.retain(|pod| {
        let at = Arc::as_ptr(&pod.labels);
        let selected = match last {
            Some((seen, selected)) if seen == at => selected,
            _ => selects(service, &pod.labels),
        };
        last = Some((at, selected));
        selected && !pod.is_finished() && !pod.ips.is_empty()
    });
    chosen.sort_unstable_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    chosen
}

/// Whether the Service's selector, which is not empty, matches.
pub(super) fn selects(service: &Service, labels: &StringMap) -> bool {
    !service.spec.selector.is_empty()
        && service.spec.selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The address families the Service has; IPv4 if it does not say.
pub(super) fn families(service: &Service) -> Vec<&'static str> {
    let named = service.spec.ip_families.iter();
    let known: Vec<_> = named.map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if known.is_empty() { vec!["IPv4"] } else { known }
}

/// Groups pods by family and resolved ports.
pub(super) fn groups(service: &Service, pods: &[Arc<Pod>], zone: &dyn Fn(&str) -> Option<Box<str>>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for family in families(service) {
        for pod in pods {
            let Some(address) = address(pod, family) else { continue };
            let ports = ports(service, pod);
            let endpoint = endpoint(service, pod, address, zone);
            match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { family, ports, endpoints: vec![endpoint] }),
            }
        }
    }
    groups
}

/// The pod's address of this family.
pub(super) fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    pod.ips.iter().map(|ip| &**ip).find(|ip| ip.contains(':') == (family == "IPv6"))
}

/// The Service's ports as this pod has them; a name the pod does not have is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolve = |port: &ServicePort| {
        let protocol = if port.protocol.is_empty() { "TCP" } else { port.protocol.as_str() };
        let number = match &port.target_port {
            serde_json::Value::String(name) => {
                let named = pod.ports.iter().find(|each| {
                    let same = if each.protocol.is_empty() { "TCP" } else { each.protocol.as_str() };
                    each.name == *name && same == protocol
                });
                named?.container_port
            }
            other => other.as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or(port.port),
        };
        Some(EndpointPort {
            name: port.name.clone(),
            protocol: protocol.to_string(),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut ports: Vec<EndpointPort> = service.spec.ports.iter().filter_map(resolve).collect();
    ports.sort_unstable();
    ports
}

fn endpoint(service: &Service, pod: &Pod, address: &str, zone: &dyn Fn(&str) -> Option<Box<str>>) -> Endpoint {
    let terminating = pod.deleted != 0;
    let named = !pod.hostname.is_empty() && **pod.subdomain == *service.metadata.name;
    Endpoint {
        addresses: vec![address.into()],
        conditions: EndpointConditions {
            ready: service.spec.publish_not_ready_addresses || pod.ready && !terminating,
            serving: pod.ready,
            terminating,
        },
        hostname: named.then(|| pod.hostname.as_str().into()),
        node_name: (!pod.node.is_empty()).then(|| pod.node.as_str().into()),
        zone: zone(&pod.node),
        target_ref: Some(target(pod)),
    }
}

/// The reference to a pod.
pub(super) fn target(pod: &Pod) -> TargetRef {
    TargetRef {
        kind: "Pod".into(),
        namespace: (*pod.metadata.namespace).into(),
        name: (*pod.metadata.name).into(),
        uid: (*pod.metadata.uid).into(),
    }
}

/// Whether two states of a pod make a difference to any Service.
pub(super) fn differs(old: &Pod, new: &Pod) -> bool {
    let routed = |pod: &Pod| (pod.ready, pod.deleted != 0, pod.is_finished());
    routed(old) != routed(new)
        || old.ips != new.ips
        || old.node != new.node
        || old.hostname != new.hostname
        || old.subdomain != new.subdomain
        || !Arc::ptr_eq(&old.labels, &new.labels)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::{NamedPort, Phase};

    pub(in crate::endpoint) fn service() -> Service {
        let text = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"},
                {"name": "raw", "protocol": "TCP", "port": 90},
            ]},
        });
        serde_json::from_str(&text.to_string()).unwrap()
    }

    pub(in crate::endpoint) fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let mut pod = Pod {
            labels: Arc::new([("app".to_string(), "web".to_string())].into()),
            node: Arc::new("node".to_string()),
            phase: Phase::Running,
            ready,
            ips: vec![format!("10.1.{}.{}", number / 250, number % 250).into()],
            ports: Arc::new(vec![NamedPort { name: "http".into(), container_port: 8080, protocol: "TCP".into() }]),
            ..Pod::default()
        };
        pod.metadata.name = format!("web-{number:05}").into();
        pod.metadata.namespace = "n".into();
        pod.metadata.uid = format!("uid-{number}").into();
        Arc::new(pod)
    }

    #[test]
    fn named_ports_resolve_per_pod_and_group() {
        let service = service();
        let mut other = Pod::clone(&pod(2, true));
        other.ports = Arc::new(vec![NamedPort { name: "http".into(), container_port: 9090, protocol: "TCP".into() }]);
        let mut nameless = Pod::clone(&pod(3, true));
        nameless.ports = Arc::default();
        let pods = [pod(0, true), pod(1, false), Arc::new(other), Arc::new(nameless)];
        let groups = groups(&service, &pods, &|_| Some("z1".into()));
        let numbers = |group: &Group| group.ports.iter().map(|port| port.port.unwrap()).collect::<Vec<_>>();
        assert_eq!(groups.iter().map(numbers).collect::<Vec<_>>(), [vec![8080, 90], vec![9090, 90], vec![90]]);
        assert_eq!(groups[0].endpoints.len(), 2);
        assert_eq!(groups[0].endpoints[0].zone.as_deref(), Some("z1"));
        let ready: Vec<_> = groups[0].endpoints.iter().map(|endpoint| endpoint.conditions.ready).collect();
        assert_eq!(ready, [true, false]);
    }

    #[test]
    fn terminating_pods_serve_but_are_not_ready() {
        let mut leaving = Pod::clone(&pod(0, true));
        leaving.deleted = 5;
        let groups = groups(&service(), &[Arc::new(leaving)], &|_| None);
        let conditions = groups[0].endpoints[0].conditions;
        assert_eq!((conditions.ready, conditions.serving, conditions.terminating), (false, true, true));
    }

    #[test]
    fn only_live_pods_with_an_address_are_selected() {
        let (mut ended, mut bare, mut stranger) =
            (Pod::clone(&pod(1, true)), Pod::clone(&pod(2, true)), Pod::clone(&pod(3, true)));
        ended.phase = Phase::Succeeded;
        bare.ips.clear();
        stranger.labels = Arc::default();
        let pods = vec![pod(4, true), Arc::new(ended), Arc::new(bare), Arc::new(stranger), pod(0, true)];
        let names: Vec<_> = selected(&service(), pods).iter().map(|pod| pod.metadata.name.to_string()).collect();
        assert_eq!(names, ["web-00000", "web-00004"]);
    }
}
