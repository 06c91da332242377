//! JSON patch, RFC 6902, with the error texts that Kubernetes' users know.

use serde_json::Value;

use super::{MAX_JSON_COPY_BYTES, MAX_JSON_OPERATIONS, PatchError};

/// Applies a JSON patch, all of it or nothing.
///
/// # Errors
/// If the patch is malformed, has too many operations or does not apply.
pub fn json(mut object: Value, patch: Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        let found = if patch.is_object() { "object" } else { "value" };
        let text = format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Patch");
        return Err(PatchError::BadRequest(text));
    };
    if operations.len() > MAX_JSON_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for operation in operations {
        let Value::Object(operation) = operation else {
            let text = "json: cannot unmarshal value into Go value of type jsonpatch.Operation";
            return Err(PatchError::BadRequest(text.to_owned()));
        };
        let text = |name: &str| operation.get(name).and_then(Value::as_str);
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        let kind = text("op").unwrap_or("unknown");
        let result = match kind {
            "add" => path(text("path"), "add").and_then(|path| add(&mut object, path, value())),
            "remove" => path(text("path"), "remove").and_then(|path| remove(&mut object, path)),
            "replace" => path(text("path"), "replace").and_then(|path| replace(&mut object, path, value())),
            "test" => path(text("path"), "test").and_then(|path| test(&object, path, operation.get("value"))),
            "move" | "copy" => transfer(&mut object, kind, text("from"), text("path"), &mut copied),
            _ => Err(format!("Unexpected kind: {kind}")),
        };
        result.map_err(PatchError::Unprocessable)?;
    }
    Ok(object)
}

const MISSING: &str = "missing value";
const BAD_INDEX: &str = "invalid index referenced";

fn path<'a>(path: Option<&'a str>, kind: &str) -> Result<&'a str, String> {
    path.ok_or_else(|| match kind {
        "add" | "remove" => format!("{kind} operation failed to decode path: {MISSING}"),
        _ => format!("{kind} operation failed to decode path: operation missing path field: {MISSING}"),
    })
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The container that the path's last token is in, and that token.
fn locate<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut tokens = path.strip_prefix('/').map(|path| path.split('/'))?;
    let last = unescape(tokens.next_back()?);
    let mut at = object;
    for token in tokens {
        let token = unescape(token);
        at = match at {
            Value::Object(map) => map.get_mut(&token)?,
            Value::Array(items) => {
                let index = index(&token, items.len()).ok()?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then_some((at, last))
}

/// An index into a list of that length; negative ones count from the end.
fn index(token: &str, length: usize) -> Result<usize, String> {
    let number: i64 = token.parse().map_err(|_| format!("strconv.Atoi: parsing {token:?}: invalid syntax"))?;
    let found = if number < 0 { number + i64::try_from(length).unwrap_or(i64::MAX) } else { number };
    usize::try_from(found)
        .ok()
        .filter(|index| *index < length)
        .ok_or_else(|| format!("Unable to access invalid index: {number}: {BAD_INDEX}"))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let Some((container, key)) = locate(object, path) else {
        return Err(format!("add operation does not apply: doc is missing path: \"{path}\": {MISSING}"));
    };
    insert(container, key, value).map_err(|error| format!("error in add for path: '{path}': {error}"))
}

fn insert(container: &mut Value, key: String, value: Value) -> Result<(), String> {
    match container {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            if let Err(error) = key.parse::<i64>() {
                let _ = error;
                return Err(format!(
                    "value was not a proper array index: '{key}': strconv.Atoi: parsing {key:?}: invalid syntax"
                ));
            }
            let at = index(&key, items.len() + 1)?;
            items.insert(at, value);
        }
        _ => {}
    }
    Ok(())
}

fn take(container: &mut Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}"))
        }
        Value::Array(items) => Ok(items.remove(index(key, items.len())?)),
        _ => Ok(Value::Null),
    }
}

fn get<'a>(container: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match container {
        Value::Object(map) => Ok(map.get(key)),
        Value::Array(items) => Ok(items.get(index(key, items.len())?)),
        _ => Ok(None),
    }
}

fn remove(object: &mut Value, path: &str) -> Result<(), String> {
    let Some((container, key)) = locate(object, path) else {
        return Err(format!("remove operation does not apply: doc is missing path: \"{path}\": {MISSING}"));
    };
    take(container, &key).map(drop).map_err(|error| format!("error in remove for path: '{path}': {error}"))
}

fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".to_owned());
        }
        *object = value;
        return Ok(());
    }
    let Some((container, key)) = locate(object, path) else {
        return Err(format!("replace operation does not apply: doc is missing path: {path}: {MISSING}"));
    };
    let slot = match container {
        Value::Object(map) => map.get_mut(&key),
        Value::Array(items) => index(&key, items.len()).ok().and_then(|at| items.get_mut(at)),
        _ => None,
    };
    match slot {
        Some(slot) => {
            *slot = value;
            Ok(())
        }
        None => Err(format!("replace operation does not apply: doc is missing key: {path}: {MISSING}")),
    }
}

fn test(object: &Value, path: &str, value: Option<&Value>) -> Result<(), String> {
    let wanted = value.unwrap_or(&Value::Null);
    let failed = || Err(format!("testing value {path} failed: test failed"));
    if path.is_empty() {
        return if object == wanted { Ok(()) } else { failed() };
    }
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    let container = object.pointer(parent).filter(|value| value.is_object() || value.is_array());
    let (Some(container), true) = (container, path.starts_with('/')) else {
        return Err(format!("test operation does not apply: is missing path: {path}: {MISSING}"));
    };
    let found =
        get(container, &unescape(last)).map_err(|error| format!("error in test for path: '{path}': {error}"))?;
    if found.unwrap_or(&Value::Null) == wanted { Ok(()) } else { failed() }
}

/// `move` and `copy`.
fn transfer(
    object: &mut Value,
    kind: &str,
    from: Option<&str>,
    to: Option<&str>,
    copied: &mut usize,
) -> Result<(), String> {
    let from = from
        .ok_or_else(|| format!("{kind} operation failed to decode from: operation, missing from field: {MISSING}"))?;
    let Some((container, key)) = locate(object, from) else {
        return Err(format!("{kind} operation does not apply: doc is missing from path: {from}: {MISSING}"));
    };
    let value = if kind == "move" {
        take(container, &key).map_err(|error| format!("error in move for path: '{key}': {error}"))?
    } else {
        let value = get(container, &key).map_err(|error| format!("error in copy for from: '{from}': {error}"))?;
        let value = value.cloned().unwrap_or(Value::Null);
        *copied += value.to_string().len();
        if *copied > MAX_JSON_COPY_BYTES {
            return Err(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_JSON_COPY_BYTES}"
            ));
        }
        value
    };
    let to = path(to, kind)?;
    let Some((container, key)) = locate(object, to) else {
        return Err(format!("{kind} operation does not apply: doc is missing destination path: {to}: {MISSING}"));
    };
    insert(container, key, value).map_err(|error| match kind {
        "move" => format!("error in move for path: '{to}': {error}"),
        _ => format!("error while adding value during copy: {error}"),
    })
}
