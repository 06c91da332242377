//! Tables: what `kubectl get` shows, made on the server.
//!
//! Column names, priorities and cells are those of kube-apiserver. Every row is made from a lean view of the object that
//! borrows from it, so that a list of thousands can be printed straight from its stored bytes ([`write_row`]) without
//! building values.

mod duration;
mod network;
mod node;
mod pod;
mod small;
mod view;
mod workload;

use std::sync::LazyLock;
use std::time::SystemTime;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use view::{Cells, View};

/// What of the object comes along with each row (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata, as a `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// The columns of each resource, by its plural name with its group (`deployments.apps`).
static COLUMNS: LazyLock<FxHashMap<&'static str, Value>> = LazyLock::new(|| {
    let mut tables: FxHashMap<&'static str, Vec<Value>> = FxHashMap::default();
    let mut current = "";
    for line in include_str!("columns.txt").lines() {
        if let Some(name) = line.strip_prefix("table ") {
            current = name;
        } else if let Some(column) = line.strip_prefix("  ") {
            let mut parts = column.split(" | ");
            let (name, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let flags = parts.next().unwrap_or_default();
            let format = if flags.contains("name") { "name" } else { "" };
            tables.entry(current).or_default().push(column_definition(name, kind, format, flags.contains("wide")));
        }
    }
    tables.into_iter().map(|(name, columns)| (name, Value::Array(columns))).collect()
});

/// The columns of a resource that has none of its own.
static PLAIN: LazyLock<Value> = LazyLock::new(|| {
    json!([column_definition("Name", "string", "name", false), column_definition("Created At", "date", "", false),])
});

fn column_definition(name: &str, kind: &str, format: &str, wide: bool) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": "", "priority": i32::from(wide)})
}

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// `columnDefinitions` of a resource's table.
pub fn columns(group: &str, plural: &str) -> &'static Value {
    COLUMNS.get(qualified(group, plural).as_str()).unwrap_or(&PLAIN)
}

/// The cells of one object; `now` is what ages are counted from. An object that does not fit its kind gives empty cells.
pub fn row(group: &str, plural: &str, object: &Value, now: SystemTime) -> Vec<Value> {
    match cells(group, plural, object, now) {
        Ok(cells) => cells,
        Err(_) => blank(group, plural, object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()),
    }
}

fn blank(group: &str, plural: &str, name: &str) -> Vec<Value> {
    let columns = columns(group, plural).as_array().map(Vec::as_slice).unwrap_or_default();
    columns.iter().map(|column| if column["format"] == "name" { name.into() } else { "".into() }).collect()
}

fn cells<'de, D: Deserializer<'de>>(group: &str, plural: &str, object: D, now: SystemTime) -> Result<Cells, D::Error> {
    fn of<'de, V: View<'de>, D: Deserializer<'de>>(object: D, now: SystemTime) -> Result<Cells, D::Error> {
        Ok(V::deserialize(object)?.cells(now))
    }
    match (group, plural) {
        ("", "pods") => of::<pod::Pod<'_>, D>(object, now),
        ("", "podtemplates") => of::<workload::PodTemplate<'_>, D>(object, now),
        ("", "nodes") => of::<node::Node<'_>, D>(object, now),
        ("", "namespaces") => of::<small::Namespace<'_>, D>(object, now),
        ("", "services") => of::<network::Service<'_>, D>(object, now),
        ("", "endpoints") => of::<network::Endpoints<'_>, D>(object, now),
        ("", "configmaps") => of::<small::ConfigMap<'_>, D>(object, now),
        ("", "secrets") => of::<small::Secret<'_>, D>(object, now),
        ("", "serviceaccounts") => of::<small::ServiceAccount<'_>, D>(object, now),
        ("", "events") => of::<small::Event<'_>, D>(object, now),
        ("apps", "deployments") => of::<workload::Deployment<'_>, D>(object, now),
        ("apps", "replicasets") => of::<workload::ReplicaSet<'_>, D>(object, now),
        ("apps", "daemonsets") => of::<workload::DaemonSet<'_>, D>(object, now),
        ("apps", "controllerrevisions") => of::<workload::ControllerRevision<'_>, D>(object, now),
        ("batch", "jobs") => of::<workload::Job<'_>, D>(object, now),
        ("coordination.k8s.io", "leases") => of::<small::Lease<'_>, D>(object, now),
        ("discovery.k8s.io", "endpointslices") => of::<network::EndpointSlice<'_>, D>(object, now),
        _ => of::<small::Plain<'_>, D>(object, now),
    }
}

/// The metadata of an object, as it stands in its JSON; and the phase that a pod's row tells beside its cells.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<Phase<'a>>,
}

#[derive(Deserialize)]
struct Phase<'a> {
    #[serde(borrow, default)]
    phase: Option<view::Text<'a>>,
}

/// Appends one row of a table (`{"cells":[…],"object":{…}}`) made from an object's stored JSON.
///
/// # Errors
/// If the bytes are no JSON object. An object that does not fit its kind gives empty cells.
pub fn write_row(
    group: &str,
    plural: &str,
    object: &[u8],
    now: SystemTime,
    include: Include,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let cells = match cells(group, plural, &mut serde_json::Deserializer::from_slice(object), now) {
        Ok(cells) => cells,
        Err(_) => {
            let object: Value = serde_json::from_slice(object)?;
            row(group, plural, &object, now)
        }
    };
    out.extend_from_slice(b"{\"cells\":");
    serde_json::to_writer(&mut *out, &cells)?;
    let is_pod = (group, plural) == ("", "pods");
    if is_pod || include == Include::Metadata {
        let parts: Parts<'_> = serde_json::from_slice(object)?;
        let phase = parts.status.as_ref().and_then(|status| status.phase.as_deref());
        if let Some((reason, message)) = phase.filter(|_| is_pod).and_then(pod::completed) {
            out.extend_from_slice(b",\"conditions\":");
            let conditions = json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
            serde_json::to_writer(&mut *out, &conditions)?;
        }
        if include == Include::Metadata {
            out.extend_from_slice(
                b",\"object\":{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
            );
            out.extend_from_slice(parts.metadata.map_or("{}", RawValue::get).as_bytes());
            out.push(b'}');
        }
    }
    if include == Include::Object {
        out.extend_from_slice(b",\"object\":");
        out.extend_from_slice(object);
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests;
