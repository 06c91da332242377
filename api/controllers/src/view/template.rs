//! Pod templates: opaque JSON, kept as text, compared and hashed in canonical form.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A `PodTemplateSpec` exactly as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Template(Arc<RawValue>);

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        Ok(Template(Box::<RawValue>::deserialize(deserializer)?.into()))
    }
}

impl Default for Template {
    fn default() -> Template {
        Template::from(&Value::Null)
    }
}

impl From<&Value> for Template {
    fn from(value: &Value) -> Template {
        Template(serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()).into())
    }
}

impl Template {
    /// The parsed template; `null` if it is nested deeper than the parser goes.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// The template in the form in which equal ones are equal.
    pub(crate) fn canonical(&self) -> Canonical {
        Canonical::new(self.value())
    }
}

/// A template without its `pod-template-hash` label and without nulls, keys sorted: equal templates are equal text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Canonical(String);

/// Label that ties pods to the ReplicaSet made for one template.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";

/// Letters and digits that cannot form words (Kubernetes' `SafeEncodeString`).
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

impl Canonical {
    pub(crate) fn new(mut template: Value) -> Canonical {
        strip_nulls(&mut template);
        if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
                labels.remove(TEMPLATE_HASH);
                if labels.is_empty() {
                    metadata.remove("labels");
                }
            }
            // An empty map, as `metadata: {}` and no metadata are the same template.
            if metadata.is_empty() {
                template.as_object_mut().map(|template| template.remove("metadata"));
            }
        }
        Canonical(template.to_string())
    }

    /// A short hash, the same in every process. `collisions` counts the names that turned out to be taken.
    pub(crate) fn hash(&self, collisions: Option<i64>) -> String {
        let salt = collisions.map(|count| count.to_le_bytes());
        let hash = fnv1a(self.0.bytes().chain(salt.into_iter().flatten()));
        hash.to_string().bytes().map(|digit| char::from(SAFE[usize::from(digit) % SAFE.len()])).collect()
    }
}

/// 32-bit FNV-1a.
fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_label_nulls_and_key_order_do_not_count() {
        let plain = Canonical::new(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}));
        let dressed = Canonical::new(json!({
            "spec": {"containers": [], "nodeName": null},
            "metadata": {"creationTimestamp": null, "labels": {"pod-template-hash": "abc", "app": "web"}},
        }));
        assert_eq!(plain, dressed);
        let other = Canonical::new(json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}}));
        assert_ne!(plain, other);
        assert_ne!(plain.hash(None), other.hash(None));
    }

    #[test]
    fn hashes_are_safe_and_collisions_change_them() {
        assert_eq!(fnv1a(*b"foobar"), 0xbf9c_f968);
        let template = Canonical::new(json!({"spec": {}}));
        assert_eq!(template.hash(None), template.hash(None));
        assert_ne!(template.hash(None), template.hash(Some(1)));
        assert_ne!(template.hash(Some(1)), template.hash(Some(2)));
        assert!(template.hash(None).bytes().all(|byte| SAFE.contains(&byte)));
    }
}
