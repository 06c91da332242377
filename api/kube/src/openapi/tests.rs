use std::collections::BTreeSet;

use super::*;

fn served() -> OpenApi {
    let status = Subresource { name: "status", kind: None, verbs: &["get", "patch", "update"] };
    let scale =
        Subresource { name: "scale", kind: Some(("autoscaling", "v1", "Scale")), verbs: &["get", "patch", "update"] };
    let binding = Subresource { name: "binding", kind: Some(("", "v1", "Binding")), verbs: &["create"] };
    let resource = |group, kind, plural, namespaced, subresources: &[&Subresource]| Resource {
        group,
        version: "v1",
        kind,
        plural,
        namespaced,
        subresources: subresources.iter().map(|subresource| (*subresource).clone()).collect(),
    };
    OpenApi::new(
        vec![
            resource("", "Pod", "pods", true, &[&status, &binding]),
            resource("", "Node", "nodes", false, &[&status]),
            resource("apps", "Deployment", "deployments", true, &[&status, &scale]),
        ],
        "v1.36.0",
    )
}

fn document(path: &str) -> Value {
    serde_json::from_slice(&served().v3_group(path).unwrap().json).unwrap()
}

/// Every `$ref` of the document leads to a schema that is there.
fn check_references(document: &Value, prefix: &str, schemas: &Value) {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                Value::String(target) if key == "$ref" => drop(found.insert(target.clone())),
                value => walk(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(document, &mut found);
    assert!(found.len() > 20);
    for target in found {
        let name = target.strip_prefix(prefix).unwrap_or_else(|| panic!("{target}"));
        assert!(schemas.get(name).is_some(), "{target}");
    }
}

#[test]
fn the_index_names_documents_by_hash() {
    let api = served();
    let index: Value = serde_json::from_slice(&api.v3_index()).unwrap();
    let paths: Vec<&String> = index["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["api/v1", "apis/apps/v1"]);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let hash = api.v3_group("apis/apps/v1").unwrap().hash;
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={hash}"));
    assert_eq!(hash.len(), 64);
    assert_eq!(served().v3_group("apis/apps/v1").unwrap().hash, hash, "the same server has the same hash");
    assert!(api.v3_group("apis/nope/v1").is_none());
}

/// What kubectl looks for before it leaves field validation to the server, or sends a strategic merge patch.
#[test]
fn patch_operations_say_what_the_server_can_do() {
    for (path, document, group, kind) in [
        ("/api/v1/namespaces/{namespace}/pods/{name}", document("api/v1"), "", "Pod"),
        ("/api/v1/nodes/{name}", document("api/v1"), "", "Node"),
        ("/apis/apps/v1/namespaces/{namespace}/deployments/{name}", document("apis/apps/v1"), "apps", "Deployment"),
    ] {
        let patch = &document["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": group, "version": "v1", "kind": kind}));
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        assert!(patch["parameters"].as_array().unwrap().iter().all(|parameter| parameter["in"] == "query"));
        assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    }
    let scale = &document("apis/apps/v1")["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
    assert_eq!(scale["get"]["operationId"], "readAppsV1NamespacedDeploymentScale");
}

#[test]
fn schemas_carry_what_merges_need() {
    let document = document("apis/apps/v1");
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    assert!(!deployment["description"].as_str().unwrap().is_empty());
    assert_eq!(
        deployment["properties"]["spec"],
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}], "default": {}})
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"],
        json!({
            "type": "array",
            "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": "containerPort",
        })
    );
    assert_eq!(schemas["io.k8s.api.core.v1.Container"]["required"], json!(["name"]));
    assert!(schemas.get("io.k8s.api.core.v1.Node").is_none(), "only what the group needs");
    check_references(&document, "#/components/schemas/", schemas);
}

#[test]
fn version_2_is_one_document() {
    let api = served();
    let document: Value = serde_json::from_slice(&api.v2()).unwrap();
    assert_eq!(document["swagger"], "2.0");
    assert_eq!(document["paths"].as_object().unwrap().len(), 5 + 3 + 5);
    let patch = &document["paths"]["/api/v1/nodes/{name}"]["patch"];
    assert!(
        patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation" && p["type"] == "string")
    );
    check_references(&document, "#/definitions/", &document["definitions"]);
    assert_eq!(api.v2().as_ptr(), api.v2().as_ptr(), "built once");
}
