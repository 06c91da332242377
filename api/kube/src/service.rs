//! What a Service claims for itself: addresses and node ports.
//!
//! A claim is an object of its own in the store (`/registry/ipaddresses/<ip>`, where kube-apiserver keeps its own;
//! `/registry/servicenodeports/<protocol>-<port>`), created under the guard that it does not exist. So two gateways never give out the same
//! address, and no allocator state is kept in memory. A claim is made before the Service is written, undone if that
//! fails, and released when the Service lets go of it. What a crash leaves behind is taken over by whoever wants it next.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use bytes::Bytes;
use kelson_wire::kube::timestamp;
use kelson_wire::store::Written;
use rand::Rng;
use serde_json::{Map, Value, json};

use crate::gateway::{Call, Inner};
use crate::registry::{Resource, core};
use crate::status::{Answer, Cause, Failure};

/// Random addresses or ports tried before the range is walked through.
const RANDOM_TRIES: usize = 16;
/// Addresses walked through at most: enough to find a gap in a range that is nearly full.
const WALK: u32 = 4096;

/// What a write has claimed in the store so far.
#[derive(Default)]
pub(crate) struct Claims {
    keys: Vec<(Bytes, i64)>,
}

impl Claims {
    fn add(&mut self, key: Bytes, revision: i64) -> bool {
        self.keys.push((key, revision));
        true
    }

    /// Gives everything back: the write did not take place.
    pub async fn undo(self, gateway: &Inner) {
        for (key, revision) in self.keys {
            // What cannot be undone now is found by its owner being absent; it only costs an address.
            if let Err(error) = gateway.store.delete(key, revision).await {
                tracing::warn!(%error, "a claimed address could not be given back");
            }
        }
    }

    /// The write took place: what the old object held and the new one does not is released.
    pub async fn keep(self, gateway: &Inner, old: &Value, new: Option<&Value>) {
        drop(self);
        release_difference(gateway, old, new).await;
    }
}

pub(crate) fn is_service(row: &Resource) -> bool {
    row.kind == "Service" && row.group.is_empty()
}

/// Brings `clusterIP` and `clusterIPs` together: clients may set either (upstream's NormalizeClusterIPs).
pub(crate) fn normalise(new: &mut Value, old: Option<&Value>) {
    let old_ip = old.and_then(|old| old.pointer("/spec/clusterIP")).and_then(Value::as_str).unwrap_or("").to_string();
    let old_ips = old.and_then(|old| old.pointer("/spec/clusterIPs")).cloned();
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let ip = spec.get("clusterIP").and_then(Value::as_str).unwrap_or("").to_string();
    let ips = spec.get("clusterIPs").filter(|ips| ips.as_array().is_some_and(|list| !list.is_empty())).cloned();
    match (old, ips) {
        (_, None) if !ip.is_empty() && (old.is_none() || ip != old_ip) => {
            spec.insert("clusterIPs".into(), json!([ip]));
        }
        (Some(_), None) if ip == old_ip => {
            // The list was cleared: the single address follows it.
            spec.remove("clusterIP");
        }
        (Some(_), Some(ips)) if ip != old_ip && Some(&ips) == old_ips.as_ref() => {
            if ip.is_empty() {
                spec.remove("clusterIPs");
            } else {
                spec.insert("clusterIPs".into(), json!([ip]));
            }
        }
        _ => {}
    }
}

/// Claims what a Service needs and does not have; other kinds need nothing.
///
/// # Errors
/// 422 for an address or port that is taken or out of range, 500 if the range is full.
pub(crate) async fn claim(call: &Call<'_>, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Answer<Claims> {
    let mut claims = Claims::default();
    if !is_service(call.row()) || call.target.subresource.is_some() {
        return Ok(claims);
    }
    match claim_all(call, new, old, dry_run, &mut claims).await {
        Ok(()) => Ok(claims),
        Err(failure) => {
            claims.undo(call.gateway).await;
            Err(failure)
        }
    }
}

async fn claim_all(
    call: &Call<'_>,
    new: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
    claims: &mut Claims,
) -> Answer<()> {
    let held = old.map(held_keys).unwrap_or_default();
    let namespace = call.target.namespace.clone();
    let name = crate::verbs::text(new, "name").to_string();
    let spec = new.as_object_mut().and_then(|map| map.entry("spec").or_insert_with(|| json!({})).as_object_mut());
    let Some(spec) = spec else { return Ok(()) };
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_string();
    let owner = Owner { call, namespace, name, held, dry_run };
    if kind == "ExternalName" {
        return Ok(());
    }
    owner.address(spec, claims).await?;
    let balanced = kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    if kind == "NodePort" || balanced {
        owner.ports(spec, claims).await?;
    }
    Ok(())
}

/// Releases everything that an object held which is gone, or is `new` now.
pub(crate) async fn release(gateway: &Inner, row: &Resource, old: &Value, new: Option<&Value>) {
    if is_service(row) {
        release_difference(gateway, old, new).await;
    }
}

async fn release_difference(gateway: &Inner, old: &Value, new: Option<&Value>) {
    if old.get("kind").and_then(Value::as_str) != Some("Service") {
        return;
    }
    let kept = new.map(held_keys).unwrap_or_default();
    for key in held_keys(old).into_iter().filter(|key| !kept.contains(key)) {
        let key = Bytes::from(key);
        let released = async {
            if let Some(object) = gateway.store.get(key.clone()).await?.object {
                gateway.store.delete(key.clone(), object.mod_revision).await?;
            }
            Ok::<_, kelson_wire::store::StoreError>(())
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, key = %String::from_utf8_lossy(&key), "a claim could not be released");
        }
    }
}

/// Whether a claim was left behind by a write that never came to its end (a crash in between): it is old enough for
/// that write to be over, and the Service it names does not hold it.
async fn is_abandoned(gateway: &Inner, key: &[u8], claim: &[u8]) -> Answer<bool> {
    let Ok(claim) = serde_json::from_slice::<Value>(claim) else { return Ok(false) };
    let text = |pointer: &str| claim.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let created = timestamp::parse(text("/metadata/creationTimestamp"));
    let age = created.and_then(|created| SystemTime::now().duration_since(created).ok()).unwrap_or_default();
    if age < gateway.config.request_timeout * 2 {
        return Ok(false);
    }
    let (_, row) = core("services");
    let parent = row.key(text("/spec/parentRef/namespace"), text("/spec/parentRef/name"));
    let Some(object) = gateway.store.get(parent.into()).await?.object else { return Ok(true) };
    let Ok(service) = serde_json::from_slice::<Value>(&object.value) else { return Ok(false) };
    Ok(!held_keys(&service).iter().any(|held| held.as_bytes() == key))
}

pub(crate) fn address_key(ip: Ipv4Addr) -> String {
    format!("/registry/ipaddresses/{ip}")
}

fn port_key(protocol: &str, port: u64) -> String {
    format!("/registry/servicenodeports/{}-{port}", protocol.to_ascii_lowercase())
}

/// The keys of what a Service has claimed.
fn held_keys(service: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    let address = service.pointer("/spec/clusterIP").and_then(Value::as_str).unwrap_or("");
    if let Ok(ip) = address.parse() {
        keys.push(address_key(ip));
    }
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    for port in ports.into_iter().flatten() {
        let number = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
        let key = port_key(protocol_of(port), number);
        if number > 0 && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn protocol_of(port: &Value) -> &str {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}

/// The Service that claims.
struct Owner<'a> {
    call: &'a Call<'a>,
    namespace: String,
    name: String,
    held: Vec<String>,
    dry_run: bool,
}

impl Owner<'_> {
    async fn address(&self, spec: &mut Map<String, Value>, claims: &mut Claims) -> Answer<()> {
        let asked = spec.get("clusterIP").and_then(Value::as_str).unwrap_or("");
        let listed = || spec.get("clusterIPs").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or("");
        let asked = if asked.is_empty() { listed() } else { asked }.to_string();
        if asked == "None" {
            spec.insert("clusterIP".into(), "None".into());
            spec.insert("clusterIPs".into(), json!(["None"]));
            return self.families(spec);
        }
        let ip = if asked.is_empty() {
            self.free_address(claims).await?
        } else {
            self.asked_address(&asked, claims).await?
        };
        spec.insert("clusterIP".into(), ip.to_string().into());
        spec.insert("clusterIPs".into(), json!([ip.to_string()]));
        self.families(spec)
    }

    fn families(&self, spec: &mut Map<String, Value>) -> Answer<()> {
        let families = spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        if families.as_array().is_some_and(|list| list.iter().any(|family| family != "IPv4")) {
            let message = "Invalid value: \"IPv6\": not configured on this cluster".to_string();
            return Err(self.invalid("FieldValueInvalid", message, "spec.ipFamilies[0]"));
        }
        let policy = spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        if policy == "RequireDualStack" {
            let message = "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services";
            return Err(self.invalid("FieldValueInvalid", message.into(), "spec.ipFamilyPolicy"));
        }
        Ok(())
    }

    fn invalid(&self, reason: &str, message: String, field: &str) -> Failure {
        let cause = Cause { reason: reason.into(), message, field: field.into() };
        Failure::invalid(self.call.row(), &self.name, vec![cause])
    }

    async fn asked_address(&self, asked: &str, claims: &mut Claims) -> Answer<Ipv4Addr> {
        let config = &self.call.gateway.config;
        let refused = |why: &str| {
            let message = format!("Invalid value: [{asked:?}]: failed to allocate IP {asked}: {why}");
            self.invalid("FieldValueInvalid", message, "spec.clusterIPs")
        };
        let base = u32::from(config.service_network) & config.service_mask();
        let ip: Ipv4Addr = asked.parse().map_err(|_| refused("not a valid IPv4 address"))?;
        let offset = u32::from(ip).wrapping_sub(base);
        if offset == 0 || offset >= config.service_addresses() - 1 {
            let range = format!("{}/{}", Ipv4Addr::from(base), config.service_prefix);
            return Err(refused(&format!(
                "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
            )));
        }
        if self.take(address_key(ip), || self.address_object(), claims).await? {
            Ok(ip)
        } else {
            Err(refused("provided IP is already allocated"))
        }
    }

    async fn free_address(&self, claims: &mut Claims) -> Answer<Ipv4Addr> {
        let config = &self.call.gateway.config;
        let base = u32::from(config.service_network) & config.service_mask();
        let usable = config.service_addresses() - 2;
        let start = rand::rng().random_range(0..usable);
        for step in 0..RANDOM_TRIES as u32 + WALK.min(usable) {
            let offset = if (step as usize) < RANDOM_TRIES {
                rand::rng().random_range(0..usable)
            } else {
                (start + step) % usable
            };
            let ip = Ipv4Addr::from(base + 1 + offset);
            if self.take(address_key(ip), || self.address_object(), claims).await? {
                return Ok(ip);
            }
        }
        Err(Failure::internal("failed to allocate a serviceIP: range is full"))
    }

    async fn ports(&self, spec: &mut Map<String, Value>, claims: &mut Claims) -> Answer<()> {
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        let mut own: Vec<String> = Vec::new();
        let (first, last) = self.call.gateway.config.node_ports;
        // Asked-for ports first, so that a free choice does not take them away.
        for (number, port) in ports.iter().enumerate() {
            let asked = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
            if asked == 0 {
                continue;
            }
            let field = format!("spec.ports[{number}].nodePort");
            if asked < u64::from(first) || asked > u64::from(last) {
                let message = format!(
                    "Invalid value: {asked}: provided port is not in the valid range. The range of valid ports is {first}-{last}"
                );
                return Err(self.invalid("FieldValueInvalid", message, &field));
            }
            let key = port_key(protocol_of(port), asked);
            if !own.contains(&key) && !self.take(key.clone(), || self.port_object(), claims).await? {
                let message = format!("Invalid value: {asked}: provided port is already allocated");
                return Err(self.invalid("FieldValueInvalid", message, &field));
            }
            own.push(key);
        }
        for port in ports.iter_mut() {
            if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) > 0 {
                continue;
            }
            let protocol = protocol_of(port).to_string();
            let count = last.saturating_sub(first) + 1;
            let start = rand::rng().random_range(0..count);
            let mut found = None;
            for step in 0..count {
                let number = first + (start + step) % count;
                let key = port_key(&protocol, u64::from(number));
                if !own.contains(&key) && self.take(key.clone(), || self.port_object(), claims).await? {
                    own.push(key);
                    found = Some(number);
                    break;
                }
            }
            let Some(number) = found else {
                return Err(Failure::internal("failed to allocate a nodePort: range is full"));
            };
            if let Some(port) = port.as_object_mut() {
                port.insert("nodePort".into(), json!(number));
            }
        }
        Ok(())
    }

    /// Claims one key; false if somebody else has it.
    async fn take(&self, key: String, object: impl Fn() -> Value, claims: &mut Claims) -> Answer<bool> {
        if self.held.contains(&key) {
            return Ok(true);
        }
        let store = &self.call.gateway.store;
        let key = Bytes::from(key);
        if self.dry_run {
            return Ok(store.get(key).await?.object.is_none());
        }
        let mut value = object();
        if let Some(map) = value.as_object_mut()
            && let Some(name) = key.iter().rposition(|byte| *byte == b'/')
        {
            let name = String::from_utf8_lossy(&key[name + 1..]).into_owned();
            map.insert(
                "metadata".into(),
                json!({
                    "name": name,
                    "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": timestamp::now(),
                    "labels": {
                        "ipaddress.kubernetes.io/ip-family": "IPv4",
                        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                    },
                }),
            );
        }
        let value = Bytes::from(value.to_string());
        let mut taken = match store.put(key.clone(), value.clone(), 0, 0).await? {
            Written::Done { revision } => return Ok(claims.add(key, revision)),
            Written::Conflict { current, .. } => current,
        };
        if let Some(object) = taken.take()
            && is_abandoned(self.call.gateway, &key, &object.value).await?
            && let Written::Done { revision } = store.put(key.clone(), value, object.mod_revision, 0).await?
        {
            return Ok(claims.add(key, revision));
        }
        Ok(false)
    }

    fn parent(&self) -> Value {
        json!({"group": "", "resource": "services", "namespace": self.namespace, "name": self.name})
    }

    fn address_object(&self) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "spec": {"parentRef": self.parent()}})
    }

    fn port_object(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceNodePort", "spec": {"parentRef": self.parent()}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_holds_its_address_and_each_port_once() {
        let service = json!({"spec": {"clusterIP": "10.96.0.10", "ports": [
            {"nodePort": 30000}, {"nodePort": 30000, "protocol": "UDP"}, {"nodePort": 30000, "protocol": "TCP"}, {"port": 1},
        ]}});
        assert_eq!(
            held_keys(&service),
            [
                "/registry/ipaddresses/10.96.0.10",
                "/registry/servicenodeports/tcp-30000",
                "/registry/servicenodeports/udp-30000"
            ]
        );
        assert!(held_keys(&json!({"spec": {"clusterIP": "None"}})).is_empty());
    }
}
