//! Forms and documents: protobuf bodies, strict decoding, discovery, schemas.

use super::*;

/// A namespace as a Go client sends it: `Unknown{typeMeta{v1, Namespace}, raw}`.
fn namespace(name: &str) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    let part = |number: u8, text: &[u8]| [&[number << 3 | 2, length(text)], text].concat();
    let meta = [part(1, b"v1"), part(2, b"Namespace")].concat();
    // A zero creation time and an empty spec and status, as Go always writes them.
    let metadata = [part(1, name.as_bytes()), part(8, b"")].concat();
    let raw = [part(1, &metadata), part(2, b""), part(3, &part(1, b""))].concat();
    [b"k8s\0".to_vec(), part(1, &meta), part(2, &raw), part(3, b""), part(4, b"")].concat()
}

#[tokio::test]
async fn protobuf_bodies_are_read() {
    let cluster = Cluster::new().await;
    let media = "application/vnd.kubernetes.protobuf";
    let created = cluster.send(Method::POST, "/api/v1/namespaces", media, namespace("team")).await;
    assert_eq!(created.code, 201, "{}", created.body);
    assert_eq!(created.body["status"]["phase"], "Active");
    assert_eq!(cluster.stored("/registry/namespaces/team").await.unwrap()["kind"], "Namespace");
    let broken = cluster.send(Method::POST, "/api/v1/namespaces", media, "k8s\0\u{1}").await;
    assert_eq!(broken.code, 400);
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_told() {
    let cluster = Cluster::new().await;
    let body = r#"{"metadata":{"name":"a"},"data":{"k":"v"},"dota":{},"data":{"k":"w"}}"#;
    let post = async |query: &str, name: &str| {
        let path = format!("{MAPS}{query}");
        cluster.send(Method::POST, &path, "application/json", body.replace("\"a\"", &format!("\"{name}\""))).await
    };
    let strict = post("?fieldValidation=Strict", "a").await;
    strict.fails(
        400,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"data\", \
         unknown field \"dota\"",
    );
    let warned = post("", "b").await;
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(warnings, ["299 - \"duplicate field \\\"data\\\"\"", "299 - \"unknown field \\\"dota\\\"\""]);
    assert!(warned.body.get("dota").is_none());
    let ignored = post("?fieldValidation=Ignore", "c").await;
    assert!(ignored.headers.get("warning").is_none() && ignored.body.get("dota").is_none());
    assert_eq!(post("?fieldValidation=Maybe", "d").await.code, 422);
    let patch = cluster.merge(&format!("{MAPS}/b?fieldValidation=Strict"), json!({"dota": {}})).await;
    assert_eq!(patch.code, 400);
}

#[tokio::test]
async fn objects_are_held_to_the_rules_of_their_kind() {
    let cluster = Cluster::new().await;
    let mut bad = pod("p");
    bad["spec"]["containers"][0]["image"] = json!("");
    let refused = cluster.post(PODS, bad).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.body["reason"], "Invalid");
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.containers[0].image");
    let wrong_type = json!({"metadata": {"name": "a"}, "data": {"k": 1}});
    assert_eq!(cluster.post(MAPS, wrong_type).await.code, 400);
    cluster.post(PODS, pod("p")).await.ok();
    let moved = cluster.merge(&format!("{PODS}/p"), json!({"spec": {"nodeName": "elsewhere"}})).await;
    assert_eq!(moved.code, 422);
}

#[tokio::test]
async fn strategic_patches_merge_lists_by_key() {
    let cluster = Cluster::new().await;
    cluster.post(PODS, pod("p")).await.ok();
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}}).to_string();
    let media = "application/strategic-merge-patch+json";
    let patched = cluster.send(Method::PATCH, &format!("{PODS}/p"), media, patch).await.ok();
    assert_eq!(patched["spec"]["containers"][0]["image"], "nginx:2");
    assert_eq!(patched["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(patched["metadata"]["generation"], 2);
}

#[tokio::test]
async fn discovery_lists_what_is_served() {
    let cluster = Cluster::new().await;
    assert_eq!(cluster.get("/api").await.ok()["versions"], json!(["v1"]));
    let groups = cluster.get("/apis").await.ok();
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    assert_eq!(names, ["apps", "batch", "coordination.k8s.io", "discovery.k8s.io"]);
    assert_eq!(cluster.get("/apis/apps").await.ok()["preferredVersion"]["groupVersion"], "apps/v1");
    let core = cluster.get("/api/v1").await.ok();
    let resource = |name: &str| {
        core["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == name).cloned().unwrap()
    };
    assert_eq!(resource("pods")["shortNames"], json!(["po"]));
    assert_eq!(resource("pods/log")["verbs"], json!(["get"]));
    assert_eq!(resource("bindings")["kind"], "Binding");
    assert_eq!(cluster.get("/apis/nothing").await.code, 404);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = cluster.get_as("/apis", accept).await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(aggregated.body["items"][0]["versions"][0]["resources"][1]["resource"], "daemonsets");
    // Everything listed can be asked for.
    for resource in core["resources"].as_array().unwrap() {
        let name = resource["name"].as_str().unwrap();
        if resource["verbs"].as_array().unwrap().iter().any(|verb| verb == "list") {
            assert_eq!(cluster.get(&format!("/api/v1/{name}")).await.code, 200, "{name}");
        }
    }
}

#[tokio::test]
async fn schemas_are_published() {
    let cluster = Cluster::new().await;
    let index = cluster.get("/openapi/v3").await.ok();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_string();
    let document = cluster.get(&url).await.ok();
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert_eq!(cluster.get("/openapi/v3/apis/nothing/v1").await.code, 404);
    assert!(cluster.get("/openapi/v2").await.ok()["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    assert_eq!(cluster.get_as("/openapi/v2", protobuf).await.code, 200);
    assert_eq!(cluster.get_as("/openapi/v2", "application/vnd.kubernetes.protobuf").await.code, 406);
}
