//! Merge patch, RFC 7386.

use serde_json::{Map, Value};

use super::PatchError;

/// Applies a merge patch: maps merge, `null` deletes, everything else replaces.
///
/// # Errors
/// If the patch is no object or array.
pub fn merge(mut object: Value, patch: Value) -> Result<Value, PatchError> {
    match patch {
        Value::Object(patch) => {
            apply(&mut object, patch);
            Ok(object)
        }
        Value::Array(_) => Ok(patch),
        _ => Err(PatchError::BadRequest("Invalid JSON Patch".to_owned())),
    }
}

fn apply(target: &mut Value, patch: Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                map.remove(&key);
            }
            Value::Object(patch) => apply(map.entry(key).or_insert(Value::Null), patch),
            value => {
                map.insert(key, value);
            }
        }
    }
}
