//! Strategic merge patch: a merge patch whose lists merge by key, as the schema says.
//!
//! The rules are those of the Kubernetes documentation, "Update API Objects in Place Using kubectl patch": maps merge;
//! lists merge by their merge key where the schema has one, or as sets of scalars; other lists are replaced. Directives in
//! the patch change that: `$patch: replace|delete`, `$retainKeys`, `$deleteFromPrimitiveList/<field>` and
//! `$setElementOrder/<field>`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Patch, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of that kind.
///
/// # Errors
/// If the patch is malformed, or merges lists without naming the elements by their keys.
pub fn strategic(object: Value, patch: Value, ty: &'static Type) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        let text = "json: cannot unmarshal value into Go value of type map[string]interface {}";
        return Err(PatchError::BadRequest(text.to_owned()));
    };
    let Value::Object(object) = object else { return Err(bad("invalid JSON document")) };
    Ok(Value::Object(merge_map(object, patch, Place::Struct(ty))?))
}

fn bad(text: impl Into<String>) -> PatchError {
    PatchError::BadRequest(text.into())
}

/// Where in the schema a map of the patch stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    Struct(&'static Type),
    /// A map whose values have this shape.
    Values(&'a Shape),
    /// The schema does not say.
    Free,
}

impl Place<'_> {
    fn of(shape: &Shape) -> Place<'_> {
        match shape {
            Shape::Map(values) => Place::Values(values),
            shape => shape.structure().map_or(Place::Free, Place::Struct),
        }
    }

    /// The place of a field's value, and for a list of its elements; and how the field is patched.
    fn below(&self, key: &str) -> (Place<'_>, Patch) {
        let (shape, patch) = match self {
            Place::Struct(ty) => match ty.field(key) {
                Some(field) => (&field.shape, field.patch),
                None => return (Place::Free, Patch::default()),
            },
            Place::Values(shape) => (*shape, Patch::default()),
            Place::Free => return (Place::Free, Patch::default()),
        };
        match shape {
            Shape::List(item) => (Place::of(item), patch),
            shape => (Place::of(shape), patch),
        }
    }
}

fn merge_map(mut object: Object, mut patch: Object, place: Place<'_>) -> Result<Object, PatchError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(directive) if directive == "replace" => return Ok(patch),
        Some(directive) if directive == "delete" => return Ok(Object::new()),
        Some(directive) => return Err(unknown_directive(&directive, &patch)),
    }
    retain_keys(&mut object, &mut patch)?;
    merge_ordered_lists(&mut object, &mut patch, place)?;
    for (key, value) in patch {
        if let Some(key) = key.strip_prefix(DELETE_FROM_LIST) {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (object.get_mut(key), &value) {
                same_type(items.iter().chain(gone))?;
                let gone: HashMap<String, ()> = gone.iter().map(|item| (item.to_string(), ())).collect();
                items.retain(|item| !gone.contains_key(&item.to_string()));
            }
            continue;
        }
        if value.is_null() {
            object.remove(&key);
            continue;
        }
        let (below, how) = place.below(&key);
        match (object.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let merged = if how.replace { new } else { merge_map(old, new, below)? };
                object.insert(key, Value::Object(merged));
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let merged = if how.merge { merge_list(old, new, below, how)?.0 } else { new };
                object.insert(key, Value::Array(merged));
            }
            (_, new) => {
                if let Some(new) = without_directives(new) {
                    object.insert(key, new);
                }
            }
        }
    }
    Ok(object)
}

/// `$retainKeys` lists all fields that remain; everything that the patch sets must be among them.
fn retain_keys(object: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = || bad("invalid patch format of retainKeys");
    let Value::Array(keys) = keys else { return Err(malformed()) };
    let kept = |key: &String| keys.iter().any(|kept| kept == key);
    let directive = |key: &String| key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !kept(key)) {
        return Err(malformed());
    }
    object.retain(|key, _| kept(key));
    Ok(())
}

/// Merges the lists whose order the patch gives with `$setElementOrder`.
fn merge_ordered_lists(object: &mut Object, patch: &mut Object, place: Place<'_>) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            _ => return Err(bad("invalid patch format of setElementOrder list")),
        };
        let key = directive.strip_prefix(SET_ORDER).unwrap_or_default();
        let (below, how) = place.below(key);
        let original = take_list(object, key)?;
        let patched = match patch.get(key) {
            Some(Value::Null) => continue,
            _ => take_list(patch, key)?,
        };
        check_order(patched.as_deref().unwrap_or_default(), &order, how.key)?;
        let (merged, server_order) = match (original, patched) {
            (None, None) => continue,
            (Some(original), None) => (original.clone(), original),
            (None, Some(patched)) => (patched.into_iter().filter_map(without_directives).collect(), Vec::new()),
            (Some(original), Some(patched)) if how.merge => merge_list(original, patched, below, how)?,
            (Some(original), Some(patched)) => (patched, original),
        };
        object.insert(key.to_owned(), Value::Array(arrange(merged, &order, &server_order, how.key)?));
    }
    Ok(())
}

fn take_list(map: &mut Object, key: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match map.remove(key) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(bad("invalid patch format of setElementOrder list")),
    }
}

/// The elements of the patch must come in the order that `$setElementOrder` gives.
fn check_order(patched: &[Value], order: &[Value], key: Option<&'static str>) -> Result<(), PatchError> {
    if patched.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patched.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let identity = identity(item, key)?;
        let mut found = false;
        for ordered in wanted.by_ref() {
            if self::identity(ordered, key)? == identity {
                found = true;
                break;
            }
        }
        if !found {
            let show = |items: &[Value]| Value::Array(items.to_vec()).to_string();
            return Err(bad(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                show(patched),
                show(order)
            )));
        }
    }
    Ok(())
}

/// What tells an element of a list apart: its merge key's value, or itself if it is a scalar.
fn identity(item: &Value, key: Option<&'static str>) -> Result<String, PatchError> {
    match (item, key) {
        (Value::Object(map), Some(key)) => match map.get(key) {
            Some(value) => Ok(value.to_string()),
            None => Err(bad(format!("map: {item} does not contain declared merge key: {key}"))),
        },
        (item, _) => Ok(item.to_string()),
    }
}

/// Merges two lists by their elements' identities. Returns the merged list and the order that the server's elements have
/// when `$setElementOrder` is applied after: elements that the patch adds take the places of those that it deletes there.
fn merge_list(
    old: Vec<Value>,
    new: Vec<Value>,
    place: Place<'_>,
    how: Patch,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    same_type(old.iter().chain(&new))?;
    if !old.iter().chain(&new).any(Value::is_object) {
        let mut seen = HashMap::new();
        let mut merged = Vec::with_capacity(old.len() + new.len());
        for item in old.iter().chain(&new) {
            if seen.insert(item.to_string(), ()).is_none() {
                merged.push(item.clone());
            }
        }
        return Ok((arrange(merged, &new, &old, None)?, old));
    }
    let Some(key) = how.key else {
        let name = match place {
            Place::Struct(ty) => ty.name,
            _ => "",
        };
        return Err(bad(format!("cannot merge lists without merge key for {name}")));
    };
    let before = old.len();
    let (mut merged, new) = apply_element_directives(old, new, key)?;
    let mut server_order: Vec<Value> = merged.iter().map(|item| only_key(item, key)).collect();
    let kept = merged.len();
    let mut places = HashMap::with_capacity(merged.len());
    for (at, item) in merged.iter().enumerate() {
        places.entry(identity(item, Some(key))?).or_insert(at);
    }
    let patch_order: Vec<Value> = new.iter().map(|item| only_key(item, key)).collect();
    for item in new {
        let name = identity(&item, Some(key))?;
        match (places.get(&name), item) {
            (Some(at), Value::Object(item)) => {
                if let Value::Object(old) = merged[*at].take() {
                    merged[*at] = Value::Object(merge_map(old, item, place)?);
                }
            }
            (_, item) => {
                if let Some(item) = without_directives(item) {
                    places.insert(name, merged.len());
                    merged.push(item);
                }
            }
        }
    }
    let added: Vec<Value> =
        merged[kept..].iter().take(before.saturating_sub(kept)).map(|item| only_key(item, key)).collect();
    let merged = arrange(merged, &patch_order, &server_order, Some(key))?;
    server_order.extend(added);
    Ok((merged, server_order))
}

/// An element reduced to its merge key, which is all that ordering needs.
fn only_key(item: &Value, key: &'static str) -> Value {
    let mut map = Object::new();
    if let Some(value) = item.get(key) {
        map.insert(key.to_owned(), value.clone());
    }
    Value::Object(map)
}

/// Handles the elements that are directives: deletes what they name, or replaces the list. Returns what the list is now
/// and the elements that remain to be merged into it.
fn apply_element_directives(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: &'static str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::with_capacity(new.len());
    let mut gone = HashMap::new();
    let mut replace = false;
    for item in new {
        match item.get(DIRECTIVE) {
            None => rest.push(item),
            Some(directive) if directive == "delete" => {
                gone.insert(identity(&item, Some(key))?, ());
            }
            Some(directive) if directive == "replace" => replace = true,
            Some(directive) if directive == "merge" => {
                return Err(bad("merging lists cannot yet be specified in the patch"));
            }
            Some(directive) => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(directive, &map));
            }
        }
    }
    if replace {
        return Ok((rest, Vec::new()));
    }
    if !gone.is_empty() {
        let mut kept = Vec::with_capacity(old.len());
        for item in old {
            if !gone.contains_key(&identity(&item, Some(key))?) {
                kept.push(item);
            }
        }
        old = kept;
    }
    Ok((old, rest))
}

/// Puts a merged list in order: elements that the patch names come in the patch's order, the others in the server's, and
/// between the two the server's order decides where it knows both.
fn arrange(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&'static str>,
) -> Result<Vec<Value>, PatchError> {
    let ranks = |order: &[Value]| -> Result<HashMap<String, usize>, PatchError> {
        let mut ranks = HashMap::with_capacity(order.len());
        for (at, item) in order.iter().enumerate() {
            ranks.entry(identity(item, key)?).or_insert(at);
        }
        Ok(ranks)
    };
    let (patch_ranks, server_ranks) = (ranks(patch_order)?, ranks(server_order)?);
    let mut from_patch = Vec::new();
    let mut from_server = Vec::new();
    for item in merged {
        let name = identity(&item, key)?;
        let server_rank = server_ranks.get(&name).copied();
        match patch_ranks.get(&name) {
            Some(rank) => from_patch.push((*rank, server_rank, item)),
            None => from_server.push((server_rank.unwrap_or(usize::MAX), server_rank, item)),
        }
    }
    from_patch.sort_by_key(|(rank, ..)| *rank);
    from_server.sort_by_key(|(rank, ..)| *rank);
    let mut arranged = Vec::with_capacity(from_patch.len() + from_server.len());
    let mut server = from_server.into_iter().peekable();
    for (_, patch_rank, item) in from_patch {
        while let (Some((_, Some(server_rank), _)), Some(patch_rank)) = (server.peek(), patch_rank) {
            if *server_rank >= patch_rank {
                break;
            }
            arranged.extend(server.next().map(|(_, _, item)| item));
        }
        arranged.push(item);
    }
    arranged.extend(server.map(|(_, _, item)| item));
    Ok(arranged)
}

/// What a directive-laden value adds where nothing was before: nulls and directives mean nothing there.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter()
                .filter(|(key, value)| {
                    !value.is_null()
                        && key != RETAIN_KEYS
                        && !key.starts_with(DELETE_FROM_LIST)
                        && !key.starts_with(SET_ORDER)
                })
                .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                .collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        value => Some(value),
    }
}

fn same_type<'a>(items: impl Iterator<Item = &'a Value>) -> Result<(), PatchError> {
    let mut first = None;
    for item in items {
        if item.is_array() {
            return Err(PatchError::Unprocessable("lists of lists are not supported".to_owned()));
        }
        let kind = std::mem::discriminant(item);
        if *first.get_or_insert(kind) != kind {
            return Err(bad(format!("list element types are not identical: {item}")));
        }
    }
    Ok(())
}

fn unknown_directive(directive: &Value, map: &Object) -> PatchError {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    bad(format!("unknown patch type: {directive} in map: {}", Value::Object(map.clone())))
}
