//! Volumes of a pod.

use std::collections::HashSet;

use serde_json::Value;

use super::check::{descending_path, file_mode, named, no_backsteps, present};
use super::error::Errors;
use super::format;
use super::path::Path;
use super::read::{child, int, list, text};

/// Checks `spec.volumes` and returns the names of those that can be mounted.
pub(super) fn volumes<'a>(volumes: &'a [Value], path: &Path<'_>, errors: &mut Errors) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        let before = errors.0.len();
        source(volume, &path, errors);
        named(volume, "name", format::dns_label, &path, errors);
        let name = text(volume, "name");
        if names.contains(name) {
            errors.duplicate(&path.field("name"), name);
        }
        if errors.0.len() == before {
            names.insert(name);
        }
    }
    names
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut sources = volume.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
    match sources.next() {
        None => errors.required(path, "must specify a volume type"),
        Some((name, source)) => one_source(name, source, &path.field(name), errors),
    }
    for (name, _) in sources {
        errors.forbidden(&path.field(name), "may not specify more than 1 volume type");
    }
}

fn one_source(name: &str, source: &Value, path: &Path<'_>, errors: &mut Errors) {
    match name {
        "emptyDir" if text(source, "sizeLimit").starts_with('-') => {
            errors.forbidden(&path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "hostPath" => match text(source, "path") {
            "" => errors.required(&path.field("path"), ""),
            host => {
                no_backsteps(host, &path.field("path"), errors);
                let supported = [
                    "",
                    "BlockDevice",
                    "CharDevice",
                    "Directory",
                    "DirectoryOrCreate",
                    "File",
                    "FileOrCreate",
                    "Socket",
                ];
                let kind = text(source, "type");
                if !supported.contains(&kind) {
                    errors.not_supported(&path.field("type"), kind, &supported);
                }
            }
        },
        "secret" => {
            present(source, "secretName", path, errors);
            keys(source, path, errors);
        }
        "configMap" => {
            present(source, "name", path, errors);
            keys(source, path, errors);
        }
        "persistentVolumeClaim" => present(source, "claimName", path, errors),
        "nfs" => {
            present(source, "server", path, errors);
            present(source, "path", path, errors);
        }
        "csi" => present(source, "driver", path, errors),
        "downwardAPI" => file_mode(source, "defaultMode", path, errors),
        "projected" => projected(source, path, errors),
        _ => {}
    }
}

/// The keys of a config map or secret that become files.
fn keys(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    file_mode(source, "defaultMode", path, errors);
    let items_path = path.field("items");
    for (at, item) in list(source, "items").iter().enumerate() {
        let path = items_path.index(at);
        present(item, "key", &path, errors);
        present(item, "path", &path, errors);
        local_path(text(item, "path"), &path.field("path"), errors);
        file_mode(item, "mode", &path, errors);
    }
}

/// A path below the volume that does not clash with its own bookkeeping.
fn local_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    descending_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.invalid(path, value, "must not start with '..'");
    }
}

fn projected(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    file_mode(source, "defaultMode", path, errors);
    let sources_path = path.field("sources");
    for (at, source) in list(source, "sources").iter().enumerate() {
        let source_path = sources_path.index(at);
        for name in ["secret", "configMap"] {
            if let Some(part) = source.get(name) {
                let part_path = source_path.field(name);
                present(part, "name", &part_path, errors);
                keys(part, &part_path, errors);
            }
        }
        let token = child(source, "serviceAccountToken");
        if !token.is_null() {
            let token_path = source_path.field("serviceAccountToken");
            let seconds = int(token, "expirationSeconds").unwrap_or_default();
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(&token_path.field("expirationSeconds"), seconds, detail);
            }
            if seconds > 1 << 32 {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&token_path.field("expirationSeconds"), seconds, detail);
            }
            match text(token, "path") {
                "" => errors.required(&path.field("path"), ""),
                value => local_path(value, &path.field("path"), errors),
            }
        }
        if source.as_object().is_some_and(|parts| parts.len() > 1) {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}
