use serde_json::{Value, json};

use super::*;
use crate::schema;
use crate::validate;

fn defaulted(kind: (&str, &str), object: Value) -> Value {
    let ty = schema::kind(kind.0, "v1", kind.1).unwrap();
    let mut object = object;
    validate::decode(&mut object, ty).unwrap();
    apply(&mut object, ty);
    let once = object.clone();
    apply(&mut object, ty);
    assert_eq!(object, once, "defaults are stable");
    object
}

/// Each golden file holds pairs of documents: an object as a user writes it, and as it is stored.
#[test]
fn goldens() {
    for (name, text) in [
        ("pod", include_str!("testdata/pod.yaml")),
        ("service", include_str!("testdata/service.yaml")),
        ("workload", include_str!("testdata/workload.yaml")),
        ("small", include_str!("testdata/small.yaml")),
    ] {
        let documents: Vec<Value> = text
            .split("\n---\n")
            .map(|document| {
                validate::parse_strict_yaml(document.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}")).0
            })
            .collect();
        assert!(documents.len() >= 2 && documents.len().is_multiple_of(2), "{name}");
        for pair in documents.chunks(2) {
            let [written, stored] = pair else { unreachable!() };
            let version = written["apiVersion"].as_str().unwrap();
            let group = version.split_once('/').map_or("", |(group, _)| group);
            let found = defaulted((group, written["kind"].as_str().unwrap()), written.clone());
            assert_eq!(found, *stored, "{name}:\n{}", serde_yaml_ng::to_string(&found).unwrap());
        }
    }
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, want) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.29", "IfNotPresent"),
        ("registry:5000/a/nginx", "Always"),
        ("registry:5000/a/nginx:1", "IfNotPresent"),
        ("Registry.io/a/nginx:latest", "Always"),
        ("nginx@sha256:0123", "IfNotPresent"),
        ("nginx:latest@sha256:0123", "Always"),
        ("Not An Image", "IfNotPresent"),
        ("", "IfNotPresent"),
    ] {
        let pod = defaulted(("", "Pod"), json!({"spec": {"containers": [{"name": "c", "image": image}]}}));
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], want, "{image:?}");
    }
}

#[test]
fn quality_of_service() {
    let class = |resources: Value| qos_class(&json!({"spec": {"containers": [{"resources": resources}]}}));
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({"requests": {"cpu": "0"}})), "BestEffort");
    assert_eq!(class(json!({"requests": {"example.com/gpu": "1"}})), "BestEffort");
    assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(class(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}})), "Burstable");
    let both = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(class(json!({"limits": both, "requests": both})), "Guaranteed");
    assert_eq!(class(json!({"limits": both, "requests": {"cpu": "1000m", "memory": "1024Mi"}})), "Guaranteed");
    assert_eq!(class(json!({"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}})), "Burstable");
    let two =
        json!({"spec": {"containers": [{"resources": {"limits": both, "requests": both}}], "initContainers": [{}]}});
    assert_eq!(qos_class(&two), "Burstable");
    let pod_level = json!({"spec": {"resources": {"limits": both, "requests": both}, "containers": [{}]}});
    assert_eq!(qos_class(&pod_level), "Guaranteed");
}

#[test]
fn pods_start_pending() {
    let pod = schema::kind("", "v1", "Pod").unwrap();
    let mut object =
        defaulted(("", "Pod"), json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running"}}));
    prepare_create(&mut object, pod);
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    object["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    prepare_create(&mut object, pod);
    assert_eq!(object["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn jobs_select_their_own_pods() {
    let ty = schema::kind("batch", "v1", "Job").unwrap();
    let mut job =
        defaulted(("batch", "Job"), json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": {}}}));
    prepare_create(&mut job, ty);
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}));
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"],
        json!({
            "job-name": "j", "batch.kubernetes.io/job-name": "j",
            "controller-uid": "u1", "batch.kubernetes.io/controller-uid": "u1",
        })
    );
    let mut manual = defaulted(("batch", "Job"), json!({"metadata": {"name": "j"}, "spec": {"manualSelector": true}}));
    prepare_create(&mut manual, ty);
    assert_eq!(manual["spec"].get("selector"), None);
}

#[test]
fn namespaces_keep_their_finalizer() {
    let ty = schema::kind("", "v1", "Namespace").unwrap();
    let mut object = defaulted(("", "Namespace"), json!({"metadata": {"name": "n"}}));
    assert_eq!(object["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    prepare_create(&mut object, ty);
    assert_eq!(object["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(object["status"], json!({"phase": "Active"}));
    let mut new = json!({"metadata": {"name": "n"}, "spec": {"finalizers": []}, "status": {}});
    prepare_update(&mut new, &object, ty);
    assert_eq!(new["spec"], object["spec"]);
    assert_eq!(new["status"], object["status"]);
}

#[test]
fn status_is_not_the_writers() {
    for (group, kind) in
        [("apps", "Deployment"), ("apps", "ReplicaSet"), ("apps", "DaemonSet"), ("batch", "Job"), ("", "Service")]
    {
        let ty = schema::kind(group, "v1", kind).unwrap();
        let mut object =
            defaulted((group, kind), json!({"metadata": {"name": "x"}, "status": {"conditions": [{"type": "T"}]}}));
        prepare_create(&mut object, ty);
        assert_eq!(object["status"].get("conditions"), None, "{kind}");
        let old = json!({"metadata": {}, "spec": {}, "status": {"conditions": [{"type": "Old"}]}});
        prepare_update(&mut object, &old, ty);
        assert_eq!(object["status"]["conditions"], json!([{"type": "Old"}]), "{kind}");
    }
}

#[test]
fn services_keep_their_addresses() {
    let ty = schema::kind("", "v1", "Service").unwrap();
    let old = json!({"spec": {
        "type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "externalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
    prepare_update(&mut new, &old, ty);
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    assert_eq!(new["spec"]["ports"][1].get("nodePort"), None);
    let mut internal = old.clone();
    internal["spec"]["type"] = "ClusterIP".into();
    prepare_update(&mut internal, &old, ty);
    assert_eq!(internal["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(internal["spec"].get("externalTrafficPolicy"), None);
    assert_eq!(internal["spec"]["clusterIP"], "10.0.0.1");
    let mut name = old.clone();
    name["spec"]["type"] = "ExternalName".into();
    prepare_update(&mut name, &old, ty);
    assert_eq!(name["spec"].get("clusterIP"), None);
}

#[test]
fn daemon_sets_count_their_templates() {
    let ty = schema::kind("apps", "v1", "DaemonSet").unwrap();
    let mut object = json!({"metadata": {"name": "d"}, "spec": {"template": {"a": 1}}});
    prepare_create(&mut object, ty);
    let generation =
        |object: &Value| object["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    assert_eq!(generation(&object), "1");
    let mut new = object.clone();
    prepare_update(&mut new, &object, ty);
    assert_eq!(generation(&new), "1");
    new["spec"]["template"] = json!({"a": 2});
    prepare_update(&mut new, &object, ty);
    assert_eq!(generation(&new), "2");
}
