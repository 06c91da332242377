//! Which rules apply to which kind.

use serde_json::Value;

use super::error::{Errors, FieldError};
use super::format;
use super::meta::{self, NameRule};
use super::path::Path;
use super::read::child;
use crate::schema::Type;

/// Checks an object that is to be created. It is decoded and defaulted, and has its name and namespace.
pub fn create(object: &Value, ty: &'static Type) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Path::ROOT;
    let (namespaced, name_rule) = scope(ty);
    meta::create(child(object, "metadata"), namespaced, name_rule, &root.field("metadata"), &mut errors);
    errors.0
}

/// Checks an object that is to replace `old`: the rules of [`create`], and what may not change.
///
/// For an update of `/status` the caller has taken `spec` from the old object; the rules then find nothing changed.
pub fn update(object: &Value, old: &Value, ty: &'static Type) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Path::ROOT;
    let metadata = root.field("metadata");
    meta::update(child(object, "metadata"), child(old, "metadata"), &metadata, &mut errors);
    let _ = ty;
    errors.0
}

/// Whether the kind lives in namespaces, and the form of its names.
fn scope(ty: &Type) -> (bool, NameRule) {
    match (ty.group(), ty.name) {
        ("", "Namespace") => (false, format::dns_label),
        ("", "Node") => (false, format::dns_subdomain),
        ("", "Service") => (true, format::dns_label),
        _ => (true, format::dns_subdomain),
    }
}
