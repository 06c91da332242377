//! What the gateway serves: one row per resource. Handlers are written once, against the row.

use http::Method;

/// A field selector: its name in requests, where its value is, and what it reads as when absent.
#[derive(Debug)]
pub struct Field {
    /// As it stands in `fieldSelector`.
    pub name: &'static str,
    /// Object keys from the top; empty for one that the key of the object answers (`metadata.name`).
    pub path: &'static [&'static str],
    /// The value of an absent field.
    pub default: &'static str,
    /// Whether watchers that ask for one value get a channel of their own (kubelets watch the pods of their node).
    pub indexed: bool,
}

/// A path below an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    Binding,
    Eviction,
    Log,
    Finalize,
}

impl Subresource {
    /// Its path segment.
    pub fn name(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::Log => "log",
            Subresource::Finalize => "finalize",
        }
    }

    /// The verbs of discovery.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Subresource::Status | Subresource::Scale => &["get", "patch", "update"],
            Subresource::Binding | Subresource::Eviction => &["create"],
            Subresource::Log => &["get"],
            Subresource::Finalize => &["update"],
        }
    }

    /// Group, version and kind of what is exchanged, where that is not the object itself.
    pub fn kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Subresource::Scale => Some(("autoscaling", "v1", "Scale")),
            Subresource::Eviction => Some(("policy", "v1", "Eviction")),
            Subresource::Binding => Some(("", "v1", "Binding")),
            Subresource::Status | Subresource::Log | Subresource::Finalize => None,
        }
    }

    /// Whether it answers this method.
    pub fn allows(self, method: &Method) -> bool {
        self.verbs().iter().any(|verb| match *verb {
            "get" => method == Method::GET || method == Method::HEAD,
            "patch" => method == Method::PATCH,
            "update" => method == Method::PUT,
            _ => method == Method::POST,
        })
    }
}

/// Which changes of an object `metadata.generation` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The kind has no generation.
    None,
    Spec,
    SpecOrAnnotations,
    /// All but metadata, and the labels.
    Body,
}

/// One resource.
#[derive(Debug)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// The path segment.
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Folder below `/registry/`, where kube-apiserver keeps these objects too.
    pub storage: &'static str,
    pub subresources: &'static [Subresource],
    /// Field selectors beside `metadata.name` and `metadata.namespace`.
    pub fields: &'static [Field],
    /// Which changes `metadata.generation` counts.
    pub generation: Generation,
    /// Whether deletion waits for an agent to confirm it with grace 0.
    pub graceful: bool,
    /// Whether an update of what does not exist creates it.
    pub create_on_update: bool,
    /// Whether objects run out after [`crate::Config::event_ttl`].
    pub expires: bool,
    /// Whether a deletion without a propagation policy orphans dependents (the old default of a few kinds).
    pub orphans: bool,
    /// Whether a deletion answers with the last state of the object instead of a `Status`.
    pub returns_deleted: bool,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, or `deployments.apps`: how messages name the resource.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `/registry/<storage>/`, or the part of it below one namespace.
    pub fn prefix(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("/registry/{}/{namespace}/", self.storage)
        } else {
            format!("/registry/{}/", self.storage)
        }
    }

    /// The store key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = self.prefix(namespace);
        key.push_str(name);
        key
    }

    /// The subresource with this path segment.
    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|sub| sub.name() == name)
    }
}

const fn field(name: &'static str, path: &'static [&'static str]) -> Field {
    Field { name, path, default: "", indexed: false }
}

const fn flag(name: &'static str, path: &'static [&'static str]) -> Field {
    Field { name, path, default: "false", indexed: false }
}

/// What most rows have in common: a namespaced core resource without subresources.
const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    storage: "",
    subresources: &[],
    fields: &[],
    generation: Generation::None,
    graceful: false,
    create_on_update: false,
    expires: false,
    orphans: false,
    returns_deleted: false,
};

use Subresource::{Binding, Eviction, Finalize, Log, Scale, Status};

/// Every resource served, core group first. A resource's number is its position here.
pub static RESOURCES: &[Resource] = &[
    Resource {
        plural: "configmaps",
        singular: "configmap",
        kind: "ConfigMap",
        short_names: &["cm"],
        storage: "configmaps",
        ..PLAIN
    },
    Resource {
        plural: "endpoints",
        singular: "endpoints",
        kind: "Endpoints",
        short_names: &["ep"],
        storage: "services/endpoints",
        create_on_update: true,
        ..PLAIN
    },
    Resource {
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        storage: "events",
        create_on_update: true,
        expires: true,
        fields: &[
            field("involvedObject.kind", &["involvedObject", "kind"]),
            field("involvedObject.namespace", &["involvedObject", "namespace"]),
            field("involvedObject.name", &["involvedObject", "name"]),
            field("involvedObject.uid", &["involvedObject", "uid"]),
            field("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
            field("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
            field("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
            field("reason", &["reason"]),
            field("reportingComponent", &["reportingComponent"]),
            field("source", &["source", "component"]),
            field("type", &["type"]),
        ],
        ..PLAIN
    },
    Resource {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short_names: &["ns"],
        namespaced: false,
        storage: "namespaces",
        subresources: &[Finalize, Status],
        fields: &[field("status.phase", &["status", "phase"])],
        ..PLAIN
    },
    Resource {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        short_names: &["no"],
        namespaced: false,
        storage: "minions",
        subresources: &[Status],
        fields: &[flag("spec.unschedulable", &["spec", "unschedulable"])],
        ..PLAIN
    },
    Resource {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short_names: &["po"],
        categories: &["all"],
        storage: "pods",
        subresources: &[Binding, Eviction, Log, Status],
        fields: &[
            Field { name: "spec.nodeName", path: &["spec", "nodeName"], default: "", indexed: true },
            field("spec.restartPolicy", &["spec", "restartPolicy"]),
            field("spec.schedulerName", &["spec", "schedulerName"]),
            field("spec.serviceAccountName", &["spec", "serviceAccountName"]),
            flag("spec.hostNetwork", &["spec", "hostNetwork"]),
            field("status.phase", &["status", "phase"]),
            field("status.podIP", &["status", "podIP"]),
            field("status.nominatedNodeName", &["status", "nominatedNodeName"]),
        ],
        generation: Generation::Spec,
        graceful: true,
        returns_deleted: true,
        ..PLAIN
    },
    Resource {
        plural: "secrets",
        singular: "secret",
        kind: "Secret",
        storage: "secrets",
        fields: &[field("type", &["type"])],
        ..PLAIN
    },
    Resource {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short_names: &["sa"],
        storage: "serviceaccounts",
        returns_deleted: true,
        ..PLAIN
    },
    Resource {
        plural: "services",
        singular: "service",
        kind: "Service",
        short_names: &["svc"],
        categories: &["all"],
        storage: "services/specs",
        subresources: &[Status],
        fields: &[field("spec.clusterIP", &["spec", "clusterIP"]), field("spec.type", &["spec", "type"])],
        create_on_update: true,
        returns_deleted: true,
        ..PLAIN
    },
    Resource {
        group: "apps",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        kind: "ControllerRevision",
        storage: "controllerrevisions",
        ..PLAIN
    },
    Resource {
        group: "apps",
        plural: "daemonsets",
        singular: "daemonset",
        kind: "DaemonSet",
        short_names: &["ds"],
        categories: &["all"],
        storage: "daemonsets",
        subresources: &[Status],
        generation: Generation::Spec,
        ..PLAIN
    },
    Resource {
        group: "apps",
        plural: "deployments",
        singular: "deployment",
        kind: "Deployment",
        short_names: &["deploy"],
        categories: &["all"],
        storage: "deployments",
        subresources: &[Scale, Status],
        generation: Generation::SpecOrAnnotations,
        ..PLAIN
    },
    Resource {
        group: "apps",
        plural: "replicasets",
        singular: "replicaset",
        kind: "ReplicaSet",
        short_names: &["rs"],
        categories: &["all"],
        storage: "replicasets",
        subresources: &[Scale, Status],
        fields: &[Field { name: "status.replicas", path: &["status", "replicas"], default: "0", indexed: false }],
        generation: Generation::Spec,
        ..PLAIN
    },
    Resource {
        group: "batch",
        plural: "jobs",
        singular: "job",
        kind: "Job",
        categories: &["all"],
        storage: "jobs",
        subresources: &[Status],
        fields: &[Field { name: "status.successful", path: &["status", "succeeded"], default: "0", indexed: false }],
        generation: Generation::Spec,
        orphans: true,
        ..PLAIN
    },
    Resource {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        storage: "leases",
        create_on_update: true,
        ..PLAIN
    },
    Resource {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        storage: "endpointslices",
        generation: Generation::Body,
        ..PLAIN
    },
];

/// The row of a path, with its number.
pub fn find(group: &str, version: &str, plural: &str) -> Option<(usize, &'static Resource)> {
    RESOURCES.iter().enumerate().find(|(_, row)| row.plural == plural && row.group == group && row.version == version)
}

/// The row of a core resource that the gateway itself works with.
pub fn core(plural: &str) -> (usize, &'static Resource) {
    find("", "v1", plural).unwrap_or((0, &RESOURCES[0]))
}

/// Group and version pairs in the order of the rows.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for row in RESOURCES {
        if !found.contains(&(row.group, row.version)) {
            found.push((row.group, row.version));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_distinct_paths_and_storage() {
        for (number, row) in RESOURCES.iter().enumerate() {
            assert_eq!(find(row.group, row.version, row.plural).unwrap().0, number);
            assert!(RESOURCES.iter().filter(|other| other.storage == row.storage).count() == 1, "{}", row.storage);
            assert!(!row.kind.is_empty() && !row.singular.is_empty());
        }
    }

    #[test]
    fn keys_are_those_of_kube_apiserver() {
        let key = |plural, namespace, name| core(plural).1.key(namespace, name);
        assert_eq!(key("nodes", "", "n1"), "/registry/minions/n1");
        assert_eq!(key("services", "default", "web"), "/registry/services/specs/default/web");
        assert_eq!(key("endpoints", "default", "web"), "/registry/services/endpoints/default/web");
        assert_eq!(
            find("coordination.k8s.io", "v1", "leases").unwrap().1.key("kube-node-lease", "n"),
            "/registry/leases/kube-node-lease/n"
        );
    }
}
