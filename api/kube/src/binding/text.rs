//! The usual binding, written straight into the pod's text: what the general way makes, without building trees.

use std::ops::Range;

use serde::Deserialize;

use crate::scan;

/// The body that schedulers send. Anything more, or an escape in it, goes the general way.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Body<'a> {
    #[serde(default)]
    pub api_version: &'a str,
    #[serde(default)]
    pub kind: &'a str,
    #[serde(borrow)]
    pub metadata: Meta<'a>,
    #[serde(borrow)]
    pub target: Target<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta<'a> {
    #[serde(default)]
    pub name: &'a str,
    #[serde(default)]
    pub namespace: &'a str,
    #[serde(default)]
    pub uid: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target<'a> {
    #[serde(default)]
    pub api_version: &'a str,
    #[serde(default)]
    pub kind: &'a str,
    #[serde(default)]
    pub name: &'a str,
}

impl<'a> Body<'a> {
    /// Reads the body of a request for the pod `namespace/name`, if it is the usual one.
    pub fn read(text: &'a [u8], namespace: &str, name: &str) -> Option<Body<'a>> {
        let body: Body<'_> = serde_json::from_slice(text).ok()?;
        let same = |have: &str, want: &str| have.is_empty() || have == want;
        // A name that needs no escape.
        let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        let usual = same(body.api_version, "v1")
            && same(body.kind, "Binding")
            && same(body.metadata.namespace, namespace)
            && same(body.metadata.name, name)
            && same(body.target.api_version, "v1")
            && same(body.target.kind, "Node")
            && !body.target.name.is_empty()
            && plain(body.target.name);
        usual.then_some(body)
    }
}

/// What is put into the text, or taken out of it.
struct Edit {
    at: Range<usize>,
    text: String,
}

/// The stored text of a pod once it is bound to `node`, from its text as it is served (with its resource version).
/// `None` where the pod may not be bound, or is not as usual: then the general way decides.
pub fn bound(pod: &[u8], uid: &str, node: &str, now: &str) -> Option<Vec<u8>> {
    let (mut metadata, mut spec, mut status) = (None, None, None);
    for (key, range) in scan::members(pod, 0) {
        match key {
            b"metadata" => metadata = Some(range.start),
            b"spec" => spec = Some(range.start),
            b"status" => status = Some(range.start),
            _ => {}
        }
    }
    let mut edits = [
        without_version(pod, metadata?, uid)?,
        insert(pod, spec?, "nodeName", &format!("\"{node}\""), |key, value| match key {
            b"schedulingGates" => value == b"[]",
            _ => true,
        })?,
        scheduled(pod, status?, now)?,
    ];
    edits.sort_unstable_by_key(|edit| edit.at.start);
    let mut text = Vec::with_capacity(pod.len() + 160);
    let mut from = 0;
    for edit in edits {
        text.extend_from_slice(pod.get(from..edit.at.start)?);
        text.extend_from_slice(edit.text.as_bytes());
        from = edit.at.end;
    }
    text.extend_from_slice(pod.get(from..)?);
    Some(text)
}

/// Takes the resource version out. `None` if the pod is another one, or leaves.
fn without_version(pod: &[u8], metadata: usize, uid: &str) -> Option<Edit> {
    let (mut version, mut same) = (None, uid.is_empty());
    for (key, range) in scan::members(pod, metadata) {
        match key {
            b"deletionTimestamp" => return None,
            b"resourceVersion" => version = Some(start_of(pod, key)..range.end),
            b"uid" => same |= scan::scalar(&pod[range]) == Some(uid),
            _ => {}
        }
    }
    let mut version = version.filter(|_| same)?;
    match pod.get(version.end)? {
        b',' => version.end += 1,
        // The last member: the comma before it goes too, if there is one.
        _ if pod.get(version.start.checked_sub(1)?)? == &b',' => version.start -= 1,
        _ => {}
    }
    Some(Edit { at: version, text: String::new() })
}

/// The condition `PodScheduled`, which is not there yet.
fn scheduled(pod: &[u8], status: usize, now: &str) -> Option<Edit> {
    let condition =
        format!(r#"{{"lastProbeTime":null,"lastTransitionTime":"{now}","status":"True","type":"PodScheduled"}}"#);
    let Some(conditions) = scan::member(pod, status, "conditions") else {
        return insert(pod, status, "conditions", &format!("[{condition}]"), |_, _| true);
    };
    let list = &pod[conditions.clone()];
    let (b'[', b']') = (list.first()?, list.last()?) else { return None };
    if memchr::memmem::find(list, b"PodScheduled").is_some() {
        return None;
    }
    let comma = if list.len() == 2 { "" } else { "," };
    let at = conditions.end - 1;
    Some(Edit { at: at..at, text: format!("{comma}{condition}") })
}

/// Puts a member into the object at `object`, in the order of names. `None` if it is there, or `accept` refuses a member.
fn insert(text: &[u8], object: usize, name: &str, value: &str, accept: impl Fn(&[u8], &[u8]) -> bool) -> Option<Edit> {
    if text.get(object) != Some(&b'{') {
        return None;
    }
    let mut next = None;
    let mut end = object + 1;
    for (key, range) in scan::members(text, object) {
        if key == name.as_bytes() || !accept(key, &text[range.clone()]) {
            return None;
        }
        if next.is_none() && key > name.as_bytes() {
            next = Some(start_of(text, key));
        }
        end = range.end;
    }
    Some(match next {
        Some(at) => Edit { at: at..at, text: format!("\"{name}\":{value},") },
        None => {
            let comma = if end == object + 1 { "" } else { "," };
            Edit { at: end..end, text: format!("{comma}\"{name}\":{value}") }
        }
    })
}

/// Where the member whose key is this part of `text` starts, with its quote.
fn start_of(text: &[u8], key: &[u8]) -> usize {
    key.as_ptr() as usize - text.as_ptr() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn bind(pod: &Value, uid: &str) -> Option<Value> {
        let text = bound(&serde_json::to_vec(pod).unwrap(), uid, "n-1.a", NOW)?;
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(serde_json::to_vec(&value).unwrap(), text, "in the order in which the store has members");
        Some(value)
    }

    fn pod(metadata: Value, spec: Value, status: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    }

    #[test]
    fn a_pod_is_bound_wherever_its_members_are() {
        let condition =
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": NOW});
        for metadata in [
            json!({"name": "p", "resourceVersion": "12", "uid": "u"}),
            json!({"labels": {"uid": "x", "resourceVersion": "7"}, "resourceVersion": "1", "uid": "u"}),
        ] {
            for spec in [json!({}), json!({"containers": [{"name": "nodeName"}], "volumes": []}), json!({"a": 1})] {
                for status in [json!({}), json!({"phase": "Pending"}), json!({"conditions": [], "a": 1})] {
                    let mut want = pod(metadata.clone(), spec.clone(), status.clone());
                    let found = bind(&want, "u").unwrap();
                    want["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                    want["spec"]["nodeName"] = json!("n-1.a");
                    want["status"]["conditions"] = json!([condition]);
                    assert_eq!(found, want);
                }
            }
        }
        let ready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        let found = bind(&pod(json!({"resourceVersion": "1"}), json!({}), ready), "").unwrap();
        assert_eq!(found["status"]["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(found["metadata"], json!({}));
    }

    #[test]
    fn whatever_is_not_as_usual_goes_the_general_way() {
        let metadata = json!({"resourceVersion": "1", "uid": "u"});
        let leaving = json!({"resourceVersion": "1", "uid": "u", "deletionTimestamp": NOW});
        let told = json!({"conditions": [{"type": "PodScheduled", "status": "False"}]});
        let gated = json!({"schedulingGates": [{"name": "g"}]});
        for (pod, uid) in [
            (pod(metadata.clone(), json!({"nodeName": "m"}), json!({})), "u"),
            (pod(metadata.clone(), json!({"nodeName": ""}), json!({})), "u"),
            (pod(metadata.clone(), gated, json!({})), "u"),
            (pod(metadata.clone(), json!({}), told), "u"),
            (pod(metadata.clone(), json!({}), json!({"conditions": null})), "u"),
            (pod(metadata.clone(), json!({}), Value::Null), "u"),
            (pod(metadata, json!({}), json!({})), "other"),
            (pod(leaving, json!({}), json!({})), "u"),
            (json!({"metadata": {"resourceVersion": "1"}}), ""),
        ] {
            assert_eq!(bind(&pod, uid), None, "{pod}");
        }
    }

    #[test]
    fn the_usual_body_is_read_and_no_other() {
        let read = |text: &str| Body::read(text.as_bytes(), "d", "p").map(|body| body.target.name.to_string());
        let usual = r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p","namespace":"d","uid":"u"},"target":{"apiVersion":"v1","kind":"Node","name":"n"}}"#;
        assert_eq!(read(usual).as_deref(), Some("n"));
        assert_eq!(read(r#"{"metadata":{},"target":{"name":"n"}}"#).as_deref(), Some("n"));
        for (from, to) in [
            ("\"Binding\"", "\"Eviction\""),
            ("\"name\":\"p\"", "\"name\":\"q\""),
            ("\"d\"", "\"e\""),
            ("\"Node\"", "\"Pod\""),
            ("\"name\":\"n\"", "\"name\":\"\""),
            ("\"name\":\"n\"", "\"name\":\"n\\u0061\""),
            ("\"name\":\"n\"", "\"name\":\"n\",\"x\":1"),
            ("\"uid\":\"u\"", "\"annotations\":{\"a\":\"b\"}"),
        ] {
            assert_eq!(read(&usual.replace(from, to)), None, "{to}");
        }
    }
}
