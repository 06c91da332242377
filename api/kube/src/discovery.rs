//! What is served, for clients to find out: groups, versions, resources, and their schemas.

use http::{HeaderMap, HeaderValue, Response, header};
use kelson_wire::kube::Body;
use serde_json::{Value, json};

use crate::gateway::json as respond;
use crate::registry::{self, RESOURCES, Resource};
use crate::route::Route;
use crate::shape;
use crate::status::{Answer, Failure};

/// Verbs of every resource.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Answers a path that is about the API itself.
///
/// # Errors
/// 404 for a group or version that is not served.
pub fn answer(route: Route, parts: &http::request::Parts) -> Answer<Response<Body>> {
    let aggregated = aggregated(&parts.headers);
    match route {
        Route::CoreVersions => Ok(match aggregated {
            Some(version) => aggregate(version, true),
            None => respond(json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            })),
        }),
        Route::Groups => Ok(match aggregated {
            Some(version) => aggregate(version, false),
            None => {
                let groups: Vec<_> = groups().map(group).collect();
                respond(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
        }),
        Route::Group(name) => {
            let found = groups().find(|(group, _)| *group == name).ok_or_else(Failure::no_such_path)?;
            let mut body = group(found);
            body["kind"] = json!("APIGroup");
            body["apiVersion"] = json!("v1");
            Ok(respond(body))
        }
        Route::GroupVersion(group, version) => {
            let rows: Vec<_> = RESOURCES.iter().filter(|row| row.group == group && row.version == version).collect();
            let Some(first) = rows.first() else { return Err(Failure::no_such_path()) };
            let group_version = first.api_version();
            let mut resources: Vec<Value> = rows.iter().flat_map(|row| plain(row)).collect();
            if group.is_empty() {
                resources.push(json!({
                    "name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"],
                }));
            }
            resources.sort_by_key(|resource| resource["name"].as_str().unwrap_or_default().to_string());
            Ok(respond(json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": group_version,
                "resources": resources,
            })))
        }
        Route::Root => Ok(respond(json!({"paths": paths()}))),
        Route::OpenApiV2 | Route::OpenApiV3(_) => shape::openapi(&route, parts),
        _ => Err(Failure::no_such_path()),
    }
}

/// Groups other than the core group, with their version.
fn groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    registry::group_versions().into_iter().filter(|(group, _)| !group.is_empty())
}

fn group((name, version): (&'static str, &'static str)) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// Entries of an `APIResourceList` for a resource and its subresources.
fn plain(row: &Resource) -> Vec<Value> {
    let mut entry = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": VERBS,
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    let mut entries = vec![entry];
    for sub in row.subresources {
        let mut entry = json!({
            "name": format!("{}/{}", row.plural, sub.name()),
            "singularName": "",
            "namespaced": row.namespaced,
            "kind": sub.kind().map_or(row.kind, |(_, _, kind)| kind),
            "verbs": sub.verbs(),
        });
        if let Some((group, version, _)) = sub.kind().filter(|(group, _, _)| !group.is_empty()) {
            entry["group"] = json!(group);
            entry["version"] = json!(version);
        }
        entries.push(entry);
    }
    entries
}

/// The version of aggregated discovery that the client prefers, if it knows any.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|range| {
        let range: String = range.chars().filter(|letter| !letter.is_whitespace()).collect();
        let has = |part: &str| range.split(';').any(|one| one == part);
        if !has("application/json") || !has("g=apidiscovery.k8s.io") || !has("as=APIGroupDiscoveryList") {
            return None;
        }
        ["v2", "v2beta1"].into_iter().find(|version| has(&format!("v={version}")))
    })
}

fn aggregate(version: &str, core: bool) -> Response<Body> {
    let items: Vec<Value> = registry::group_versions()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, group_version)| {
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            let rows = RESOURCES.iter().filter(|row| row.group == group && row.version == group_version);
            let mut resources: Vec<Value> = rows.map(discovered).collect();
            if core {
                resources.push(json!({
                    "resource": "bindings",
                    "responseKind": {"group": "", "version": "", "kind": "Binding"},
                    "scope": "Namespaced",
                    "singularResource": "binding",
                    "verbs": ["create"],
                }));
            }
            resources.sort_by_key(|resource| resource["resource"].as_str().unwrap_or_default().to_string());
            json!({
                "metadata": metadata,
                "versions": [{"version": group_version, "resources": resources, "freshness": "Current"}],
            })
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let mut response = respond(body);
    let media = if version == "v2" {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// One resource of aggregated discovery.
fn discovered(row: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let own = kind(row.group, row.version, row.kind);
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": own,
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": VERBS,
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    if !row.subresources.is_empty() {
        let subresources = row.subresources.iter().map(|sub| {
            let response = sub.kind().map_or_else(|| own.clone(), |(group, version, name)| kind(group, version, name));
            json!({"subresource": sub.name(), "responseKind": response, "verbs": sub.verbs()})
        });
        entry["subresources"] = subresources.collect();
    }
    entry
}

fn paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(String::from)
    .to_vec();
    for (group, version) in groups() {
        paths.push(format!("/apis/{group}"));
        paths.push(format!("/apis/{group}/{version}"));
    }
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_name_their_own_kind() {
        let pods = plain(registry::core("pods").1);
        let eviction = pods.iter().find(|entry| entry["name"] == "pods/eviction").unwrap();
        assert_eq!((&eviction["group"], &eviction["kind"]), (&json!("policy"), &json!("Eviction")));
        assert_eq!(pods[0]["categories"], json!(["all"]));
        let deployments = discovered(registry::find("apps", "v1", "deployments").unwrap().1);
        assert_eq!(deployments["subresources"][0]["responseKind"]["group"], "autoscaling");
    }

    #[test]
    fn aggregation_follows_accept() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(text).unwrap());
            aggregated(&headers)
        };
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(of(&format!("{v2},{beta},application/json")), Some("v2"));
        assert_eq!(of(&format!("{beta},application/json")), Some("v2beta1"));
        assert_eq!(of("application/json"), None);
    }
}
