//! From a path to what it names.

use percent_encoding::percent_decode_str;

use crate::registry::{self, Resource, Subresource};

/// What a path names.
#[derive(Debug)]
pub enum Route {
    /// `/healthz`, `/livez`, `/readyz`, with an optional single check.
    Health,
    Version,
    Metrics,
    /// `/`, the list of paths.
    Root,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3` (empty) or `/openapi/v3/<path>`.
    OpenApiV3(String),
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1` or `/apis/<group>/<version>`.
    GroupVersion(String, String),
    Resource(Target),
    /// `POST /api/v1/namespaces/<ns>/bindings`: the pod is named in the body.
    Bindings(String),
    Unknown,
}

/// A collection, an object, or a subresource of one.
#[derive(Clone, Debug)]
pub struct Target {
    /// Position of the row in [`registry::RESOURCES`].
    pub number: usize,
    pub row: &'static Resource,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    pub subresource: Option<Subresource>,
}

impl Target {
    /// The object's store key.
    pub fn key(&self) -> bytes::Bytes {
        self.row.key(&self.namespace, &self.name).into()
    }
}

/// Takes a path apart.
pub fn route(path: &str) -> Route {
    let trimmed = path.trim_matches('/');
    if trimmed.is_empty() {
        return Route::Root;
    }
    let mut segments = Vec::new();
    for segment in trimmed.split('/') {
        match percent_decode_str(segment).decode_utf8() {
            // An escaped slash must not reach into the neighbour's key.
            Ok(text) if !text.is_empty() && !text.contains('/') => segments.push(text),
            _ => return Route::Unknown,
        }
    }
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3", rest @ ..] => Route::OpenApiV3(rest.join("/")),
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_string()),
        ["api", version] => Route::GroupVersion(String::new(), (*version).to_string()),
        ["apis", group, version] => Route::GroupVersion((*group).to_string(), (*version).to_string()),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Route::Unknown,
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, rest) = match rest {
        // `/namespaces/<name>` and its subresources are the object itself.
        ["namespaces"] | ["namespaces", _] => ("", rest),
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Route::Unknown,
    };
    if group.is_empty() && version == "v1" && plural == "bindings" && name.is_empty() && !namespace.is_empty() {
        return Route::Bindings(namespace.to_string());
    }
    let Some((number, row)) = registry::find(group, version, plural) else { return Route::Unknown };
    let misplaced = if row.namespaced { namespace.is_empty() && !name.is_empty() } else { !namespace.is_empty() };
    if misplaced {
        return Route::Unknown;
    }
    let subresource = match subresource {
        "" => None,
        name => match row.subresource(name) {
            Some(found) => Some(found),
            None => return Route::Unknown,
        },
    };
    Route::Resource(Target { number, row, namespace: namespace.to_string(), name: name.to_string(), subresource })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> (String, String, String, Option<Subresource>) {
        match route(path) {
            Route::Resource(target) => (target.row.plural.into(), target.namespace, target.name, target.subresource),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_objects() {
        let named =
            |plural: &str, namespace: &str, name: &str, sub| (plural.into(), namespace.into(), name.into(), sub);
        assert_eq!(target("/api/v1/pods"), named("pods", "", "", None));
        assert_eq!(target("/api/v1/namespaces/a/pods/b/log"), named("pods", "a", "b", Some(Subresource::Log)));
        assert_eq!(target("/api/v1/namespaces/a"), named("namespaces", "", "a", None));
        assert_eq!(target("/api/v1/namespaces/a/finalize"), named("namespaces", "", "a", Some(Subresource::Finalize)));
        assert_eq!(target("/apis/apps/v1/namespaces/a/deployments/b/scale").3, Some(Subresource::Scale));
        assert!(matches!(route("/api/v1/namespaces/a/bindings"), Route::Bindings(_)));
        for unknown in [
            "/api/v1/namespaces/a/nodes",
            "/api/v1/pods/x",
            "/api/v1/namespaces/a/pods/b%2Fc",
            "/api/v1/namespaces/a/pods/b/nothing",
            "/apis/apps/v1/pods",
            "/apis/apps/v1beta1/deployments",
            "/x",
        ] {
            assert!(matches!(route(unknown), Route::Unknown), "{unknown}");
        }
    }
}
