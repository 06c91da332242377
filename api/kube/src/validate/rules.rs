//! Which rules apply to which kind.

use serde_json::Value;

use super::error::{Errors, FieldError};
use super::format;
use super::meta::{self, NameRule};
use super::path::Path;
use super::read::child;
use super::{pod, service, small, workload};
use crate::schema::Type;

/// Checks an object that is to be created. It is decoded and defaulted, and has its name, namespace and uid.
pub fn create(object: &Value, ty: &'static Type) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (namespaced, name_rule) = scope(ty);
    // A binding's metadata names the pod, and is otherwise not looked at; events have rules of their own.
    if !matches!((ty.group(), ty.name), ("", "Binding" | "Event")) {
        let metadata = child(object, "metadata");
        meta::create(metadata, namespaced, name_rule, &Path::ROOT.field("metadata"), &mut errors);
    }
    match (ty.group(), ty.name) {
        ("", "Pod") => pod::create(object, &mut errors),
        ("", "PodTemplate") => {
            pod::template(child(object, "template"), &Path::ROOT.field("template"), &mut errors);
        }
        _ => contents(object, ty, &mut errors),
    }
    errors.0
}

/// Checks an object that is to replace `old`: its own rules, and what may not change.
///
/// For an update of `/status` the caller has taken `spec` from the old object: what is as it was is not looked at again.
pub fn update(object: &Value, old: &Value, ty: &'static Type) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let metadata = Path::ROOT.field("metadata");
    if (ty.group(), ty.name) != ("", "Event") {
        meta::update(child(object, "metadata"), child(old, "metadata"), &metadata, &mut errors);
    }
    // Status is not validated, and metadata is: whatever else there is decides whether there is more to do.
    let unchanged = ty
        .fields
        .iter()
        .filter(|field| !["metadata", "status", "apiVersion", "kind"].contains(&field.name))
        .all(|field| object.get(field.name) == old.get(field.name));
    if unchanged && (ty.group(), ty.name) != ("", "Node") {
        return errors.0;
    }
    match (ty.group(), ty.name) {
        ("", "Pod") => pod::update(object, old, &mut errors),
        ("", "PodTemplate") => {
            pod::template(child(object, "template"), &Path::ROOT.field("template"), &mut errors);
        }
        _ => contents(object, ty, &mut errors),
    }
    match (ty.group(), ty.name) {
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => workload::keeps_selector(object, old, &mut errors),
        ("batch", "Job") => workload::job_update(object, old, &mut errors),
        ("apps", "ControllerRevision") => meta::immutable(object, old, "data", &Path::ROOT, &mut errors),
        ("", "Service") => service::service_update(object, old, &mut errors),
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice_update(object, old, &mut errors),
        ("", "Secret") => small::secret_update(object, old, &mut errors),
        ("", "ConfigMap") => small::keeps_data(object, old, &mut errors),
        ("", "Node") => small::node_update(object, old, &mut errors),
        _ => {}
    }
    errors.0
}

/// The rules that hold for a kind whether it is new or not.
fn contents(object: &Value, ty: &Type, errors: &mut Errors) {
    let rules = match (ty.group(), ty.name) {
        ("", "Service") => service::service,
        ("", "Endpoints") => service::endpoints,
        ("", "Secret") => small::secret,
        ("", "ConfigMap") => small::config_map,
        ("", "Node") => small::node,
        ("", "Namespace") => small::namespace,
        ("", "Event") => small::event,
        ("", "Binding") => small::binding,
        ("apps", "Deployment") => workload::deployment,
        ("apps", "ReplicaSet") => workload::replica_set,
        ("apps", "DaemonSet") => workload::daemon_set,
        ("apps", "ControllerRevision") => workload::controller_revision,
        ("batch", "Job") => workload::job,
        ("coordination.k8s.io", "Lease") => small::lease,
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice,
        ("autoscaling", "Scale") => scale,
        _ => return,
    };
    rules(object, errors);
}

fn scale(object: &Value, errors: &mut Errors) {
    super::check::non_negative(child(object, "spec"), &["replicas"], &Path::ROOT.field("spec"), errors);
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
