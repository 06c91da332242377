//! Which resources the API server serves, from its discovery documents.

use std::sync::{Arc, LazyLock};

use kelson_wire::kube::{Client, Gvr};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use crate::error::Error;

/// Group versions to ask for; those that are not served are skipped. Where a group has several versions, the preferred one.
const GROUPS: [(&str, &str); 21] = [
    ("", "v1"),
    ("apps", "v1"),
    ("batch", "v1"),
    ("autoscaling", "v2"),
    ("policy", "v1"),
    ("discovery.k8s.io", "v1"),
    ("coordination.k8s.io", "v1"),
    ("networking.k8s.io", "v1"),
    ("storage.k8s.io", "v1"),
    ("rbac.authorization.k8s.io", "v1"),
    ("scheduling.k8s.io", "v1"),
    ("node.k8s.io", "v1"),
    ("resource.k8s.io", "v1"),
    ("events.k8s.io", "v1"),
    ("certificates.k8s.io", "v1"),
    ("admissionregistration.k8s.io", "v1"),
    ("apiextensions.k8s.io", "v1"),
    ("apiregistration.k8s.io", "v1"),
    ("flowcontrol.apiserver.k8s.io", "v1"),
    ("authentication.k8s.io", "v1"),
    ("authorization.k8s.io", "v1"),
];

/// A resource as discovered.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub gvr: Gvr,
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether it has all of these verbs.
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|has| has == verb))
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Every resource, without subresources.
///
/// # Errors
/// If one group cannot be read: a caller must not take half the resources for all.
pub(crate) async fn resources(client: &Client) -> Result<Vec<Resource>, Error> {
    let mut resources = Vec::new();
    for (group, version) in GROUPS {
        let root = Gvr { group, version, resource: "", kind: "", namespaced: false };
        let document: Document = match client.get(&root, "", "").await {
            Ok(document) => document,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in document.resources.into_iter().filter(|entry| !entry.name.contains('/')) {
            let (resource, kind) = (keep(&entry.name), keep(&entry.kind));
            let gvr = Gvr { group, version, resource, kind, namespaced: entry.namespaced };
            resources.push(Resource { gvr, verbs: entry.verbs });
        }
    }
    Ok(resources)
}

/// A name that lives as long as the process. The names of resources are few and come again at each discovery.
fn keep(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<FxHashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock();
    if let Some(kept) = names.get(name) {
        return kept;
    }
    let kept: &'static str = Box::leak(name.into());
    names.insert(kept);
    kept
}

/// Finds the resource of an `apiVersion` and `kind`.
#[derive(Default)]
pub(crate) struct Kinds {
    by_kind: FxHashMap<(String, String), Gvr>,
}

impl Kinds {
    pub(crate) fn new(resources: &[Resource]) -> Arc<Kinds> {
        let key = |gvr: &Gvr| (gvr.group.to_string(), gvr.kind.to_string());
        Arc::new(Kinds { by_kind: resources.iter().map(|resource| (key(&resource.gvr), resource.gvr)).collect() })
    }

    /// The resource, in whatever version it was discovered.
    pub(crate) fn find(&self, api_version: &str, kind: &str) -> Option<Gvr> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.by_kind.get(&(group.to_string(), kind.to_string())).copied()
    }
}
