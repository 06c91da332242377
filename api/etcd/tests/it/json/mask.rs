//! Leaves out of an answer what differs from store to store, and gives the rest one form.

use serde_json::Value;

/// Values that are a store's own, or a moment's.
const OWN: [&str; 17] = [
    "cluster_id",
    "member_id",
    "raft_term",
    "raftTerm",
    "raftIndex",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "leader",
    "hash",
    "name",
    "peerURLs",
    "clientURLs",
    "cmdline",
    "memstats",
    "raft.status",
    "file_descriptor_limit",
];

/// An answer's body, masked.
pub fn masked(body: &str) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
            mask(&mut value);
            value.to_string()
        }
        _ => body.trim_end().replace('\n', " | "),
    }
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["alarms", "errors"] {
                // etcd has them in no order.
                if let Some(Value::Array(list)) = fields.get_mut(name) {
                    list.sort_by_key(Value::to_string);
                }
            }
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &mut *value) {
                    // Of several addresses it matters how many there are.
                    ("peerURLs" | "clientURLs", Value::Array(urls)) => urls.fill("~".into()),
                    ("message", Value::String(message)) => *message = words(message),
                    // Members' ids are large; leases' are what the story has chosen.
                    ("ID" | "memberID", Value::String(id)) if id.len() > 15 => *id = "~".into(),
                    (name, now) if OWN.contains(&name) && !(name == "leader" && now.is_object()) => *value = "~".into(),
                    _ => mask(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mask),
        _ => {}
    }
}

/// Go's JSON reader says differently what is wrong, and with spaces of either kind.
fn words(message: &str) -> String {
    match message.strip_prefix("proto:") {
        Some(_) => "proto: ~".to_owned(),
        None => message.replace('\u{a0}', " "),
    }
}
