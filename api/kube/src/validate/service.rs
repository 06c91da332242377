//! Services and the addresses behind them.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::check::{
    PROTOCOLS, endpoint_ip, ip, maybe, maybe_one_of, named, one_of, port_number, port_or_name, problems,
};
use super::error::Errors;
use super::format;
use super::meta::{immutable, labels};
use super::path::Path;
use super::read::{child, int, list, text};

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None" || list(spec, "clusterIPs") == ["None"]
}

/// A Service; `old` is what it replaces.
pub(super) fn service(object: &Value, errors: &mut Errors) {
    let (spec, path) = (child(object, "spec"), Path::ROOT.field("spec"));
    let (kind, ports) = (text(spec, "type"), list(spec, "ports"));
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&path.field("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&path.field("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(name).is_some() {
                    errors.forbidden(&path.field(name), "may not be set for ExternalName services");
                }
            }
            match text(spec, "externalName").trim_end_matches('.') {
                "" => errors.required(&path.field("externalName"), ""),
                name => problems(format::dns_subdomain(name), name, &path.field("externalName"), errors),
            }
        }
        _ => {}
    }
    service_ports(spec, &path.field("ports"), errors);
    labels(spec.get("selector"), &path.field("selector"), errors);
    affinity(spec, &path, errors);
    cluster_ips(spec, &path, errors);
    let external_path = path.field("externalIPs");
    for (at, address) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        if ip(address, &external_path.index(at), errors).is_some() {
            endpoint_ip(address, &external_path.index(at), errors);
        }
    }
    one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &path, errors);
    traffic(spec, &path, errors);
}

fn service_ports(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let ports = list(spec, "ports");
    let (mut names, mut node_ports, mut pairs) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = text(port, "name");
        if ports.len() > 1 && name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !name.is_empty() {
            problems(format::dns_label(name), name, &path.field("name"), errors);
            if !names.insert(name) {
                errors.duplicate(&path.field("name"), name);
            }
        }
        port_number(int(port, "port").unwrap_or_default(), &path.field("port"), errors);
        one_of(port, "protocol", &PROTOCOLS, &path, errors);
        port_or_name(port.get("targetPort"), &path.field("targetPort"), errors);
        maybe(port, "appProtocol", format::qualified_name, &path, errors);
    }
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let protocol = text(port, "protocol");
        let node_port = int(port, "nodePort").unwrap_or_default();
        if node_port != 0 {
            if text(spec, "type") == "ClusterIP" {
                errors.forbidden(&path.field("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((protocol, node_port)) {
                errors.duplicate(&path.field("nodePort"), node_port);
            }
        }
        let number = int(port, "port").unwrap_or_default();
        if !pairs.insert((protocol, number)) {
            errors.duplicate(&path, serde_json::json!({"port": number, "protocol": protocol}));
        }
    }
}

fn affinity(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    /// The longest that a client may be kept at one endpoint, in seconds.
    const MAX_SECONDS: i64 = 86_400;
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], path, errors);
    let config_path = path.field("sessionAffinityConfig");
    let config = child(spec, "sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let seconds = int(child(config, "clientIP"), "timeoutSeconds").unwrap_or_default();
            if !(1..=MAX_SECONDS).contains(&seconds) {
                let detail = format!("must be greater than 0 and less than {MAX_SECONDS}");
                errors.invalid(&config_path.field("clientIP").field("timeoutSeconds"), seconds, detail);
            }
        }
        "None" if !config.is_null() => {
            errors.forbidden(&config_path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn cluster_ips(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let (first, all) = (text(spec, "clusterIP"), list(spec, "clusterIPs"));
    let all_path = path.field("clusterIPs");
    match all.first().and_then(Value::as_str) {
        None if !first.is_empty() => errors.required(&all_path, ""),
        Some(_) if first.is_empty() => {
            errors.invalid(&all_path, all.to_vec(), "must be empty when `clusterIP` is not specified");
        }
        Some(found) if found != first => {
            errors.invalid(&all_path, all.to_vec(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families_path = path.field("ipFamilies");
    let mut seen = HashSet::new();
    for (at, family) in list(spec, "ipFamilies").iter().filter_map(Value::as_str).enumerate() {
        if !["IPv4", "IPv6"].contains(&family) {
            errors.not_supported(&families_path.index(at), family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            errors.duplicate(&families_path.index(at), family);
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    maybe_one_of(spec, "ipFamilyPolicy", &policies, path, errors);
    let mut parsed: Vec<IpAddr> = Vec::new();
    for (at, address) in all.iter().filter_map(Value::as_str).enumerate() {
        if at == 0 && address == "None" {
            if all.len() > 1 {
                errors.invalid(&all_path, all.to_vec(), "'None' must be the first and only value");
            }
            continue;
        }
        parsed.extend(ip(address, &all_path.index(at), errors));
    }
    if all.len() > 2 {
        errors.invalid(&all_path, all.to_vec(), "may only hold up to 2 values");
    }
    if let [one, two] = parsed.as_slice()
        && one.is_ipv4() == two.is_ipv4()
    {
        errors.invalid(&all_path, all.to_vec(), "may specify no more than one IP for each IP family");
    }
    for (at, (address, family)) in parsed.iter().zip(list(spec, "ipFamilies")).enumerate() {
        let wanted = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if family != wanted && ["IPv4", "IPv6"].iter().any(|known| family == known) {
            let family = family.as_str().unwrap_or_default();
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
            errors.invalid(&all_path.index(at), address.to_string(), detail);
        }
    }
}

fn traffic(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(spec, "type");
    let external =
        matches!(kind, "LoadBalancer" | "NodePort") || kind == "ClusterIP" && !list(spec, "externalIPs").is_empty();
    let policy = text(spec, "externalTrafficPolicy");
    if external {
        one_of(spec, "externalTrafficPolicy", &["Cluster", "Local"], path, errors);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid(&path.field("externalTrafficPolicy"), policy, detail);
    }
    let health = int(spec, "healthCheckNodePort").unwrap_or_default();
    if health != 0 && !(kind == "LoadBalancer" && policy == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&path.field("healthCheckNodePort"), health, detail);
    }
    maybe_one_of(spec, "internalTrafficPolicy", &["Cluster", "Local"], path, errors);
    if kind != "LoadBalancer" {
        for (name, detail) in [
            ("allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'"),
            ("loadBalancerClass", "may only be used when `type` is 'LoadBalancer'"),
            ("loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"),
        ] {
            if spec.get(name).is_some() {
                errors.forbidden(&path.field(name), detail);
            }
        }
    }
}

/// What a Service keeps: its addresses.
pub(super) fn service_update(object: &Value, old: &Value, errors: &mut Errors) {
    let (spec, old_spec, path) = (child(object, "spec"), child(old, "spec"), Path::ROOT.field("spec"));
    if [spec, old_spec].iter().any(|spec| text(spec, "type") == "ExternalName")
        || is_headless(spec) && is_headless(old_spec)
    {
        return;
    }
    let (new, old) = (list(spec, "clusterIPs"), list(old_spec, "clusterIPs"));
    let all_path = path.field("clusterIPs");
    if old.is_empty() {
        return;
    }
    if new.is_empty() {
        return errors.invalid(&all_path.index(0), Value::Null, "primary clusterIP can not be unset");
    }
    let compared = if new.len() == old.len() { new.len() } else { 1 };
    for at in 0..compared {
        if new[at] != old[at] {
            errors.invalid(&all_path.index(at), new.to_vec(), "may not change once set");
        }
    }
    if new.len() == 1 && old.len() > 1 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&path.field("ipFamilyPolicy"), child(spec, "ipFamilyPolicy").clone(), detail);
    }
}

/// An Endpoints object.
pub(super) fn endpoints(object: &Value, errors: &mut Errors) {
    let path = Path::ROOT.field("subsets");
    for (at, subset) in list(object, "subsets").iter().enumerate() {
        let path = path.index(at);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for name in ["addresses", "notReadyAddresses"] {
            let list_path = path.field(name);
            for (at, address) in list(subset, name).iter().enumerate() {
                let path = list_path.index(at);
                let value = text(address, "ip");
                ip(value, &path.field("ip"), errors);
                maybe(address, "hostname", format::dns_label, &path, errors);
                maybe(address, "nodeName", format::dns_subdomain, &path, errors);
                endpoint_ip(value, &path.field("ip"), errors);
            }
        }
        let (ports, ports_path) = (list(subset, "ports"), path.field("ports"));
        for (at, port) in ports.iter().enumerate() {
            let path = ports_path.index(at);
            if ports.len() > 1 {
                named(port, "name", format::dns_label, &path, errors);
            } else {
                maybe(port, "name", format::dns_label, &path, errors);
            }
            port_number(int(port, "port").unwrap_or_default(), &path.field("port"), errors);
            one_of(port, "protocol", &PROTOCOLS, &path, errors);
            maybe(port, "appProtocol", format::qualified_name, &path, errors);
        }
    }
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(object: &Value, errors: &mut Errors) {
    /// Bounds that the API documents.
    const ENDPOINTS: usize = 1000;
    const ADDRESSES: usize = 100;
    const PORTS: usize = 20_000;
    let root = Path::ROOT;
    one_of(object, "addressType", &["FQDN", "IPv4", "IPv6"], &root, errors);
    let (ports, ports_path) = (list(object, "ports"), root.field("ports"));
    if ports.len() > PORTS {
        errors.too_many(&ports_path, ports.len(), PORTS);
    } else {
        let mut names = HashSet::new();
        for (at, port) in ports.iter().enumerate() {
            let path = ports_path.index(at);
            maybe(port, "name", format::dns_label, &path, errors);
            if !names.insert(text(port, "name")) {
                errors.duplicate(&path.field("name"), text(port, "name"));
            }
            one_of(port, "protocol", &PROTOCOLS, &path, errors);
            maybe(port, "appProtocol", format::qualified_name, &path, errors);
        }
    }
    let (endpoints, endpoints_path) = (list(object, "endpoints"), root.field("endpoints"));
    if endpoints.len() > ENDPOINTS {
        return errors.too_many(&endpoints_path, endpoints.len(), ENDPOINTS);
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = endpoints_path.index(at);
        let (addresses, addresses_path) = (list(endpoint, "addresses"), path.field("addresses"));
        if addresses.is_empty() {
            errors.required(&addresses_path, "must contain at least 1 address");
        } else if addresses.len() > ADDRESSES {
            errors.too_many(&addresses_path, addresses.len(), ADDRESSES);
        }
        for (at, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            slice_address(address, text(object, "addressType"), at, &addresses_path, errors);
        }
        maybe(endpoint, "nodeName", format::dns_subdomain, &path, errors);
        maybe(endpoint, "hostname", format::dns_label, &path, errors);
    }
}

fn slice_address(address: &str, kind: &str, at: usize, path: &Path<'_>, errors: &mut Errors) {
    match kind {
        "IPv4" | "IPv6" => {
            if let Some(parsed) = ip(address, &path.index(at), errors) {
                if parsed.is_ipv4() != (kind == "IPv4") {
                    errors.invalid(path, address, format!("must be an {kind} address"));
                }
                endpoint_ip(address, &path.index(at), errors);
            }
        }
        "FQDN" => problems(format::dns_subdomain(address.trim_end_matches('.')), address, &path.index(at), errors),
        _ => {}
    }
}

/// What an EndpointSlice keeps for life.
pub(super) fn endpoint_slice_update(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(object, old, "addressType", &Path::ROOT, errors);
}
