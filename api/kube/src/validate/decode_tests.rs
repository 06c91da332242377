use serde_json::json;

use super::*;
use crate::schema;

fn deployment() -> &'static Type {
    schema::kind("apps", "v1", "Deployment").unwrap()
}

fn decode_error(kind: (&str, &str, &str), mut value: Value) -> String {
    decode(&mut value, schema::kind(kind.0, kind.1, kind.2).unwrap()).unwrap_err().to_string()
}

#[test]
fn tells_unknown_fields_and_drops_them() {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "nam": 1}, "foo": 1,
        "spec": {"template": {"spec": {"containers": [{"name": "c", "foo": 1}], "volumes": [{"name": "v", "emptydir": {}}]}}},
    });
    let want = [
        r#"unknown field "foo""#,
        r#"unknown field "metadata.nam""#,
        r#"unknown field "spec.template.spec.containers[0].foo""#,
        r#"unknown field "spec.template.spec.volumes[0].emptydir""#,
    ];
    assert_eq!(unknown_fields(&object, deployment()), want);
    assert_eq!(decode(&mut object, deployment()).unwrap(), want);
    assert_eq!(object["metadata"], json!({"name": "x"}));
    assert_eq!(unknown_fields(&object, deployment()), Vec::<String>::new());
    let message = strict_message(deployment(), &[want[0].to_owned(), want[1].to_owned()]);
    assert_eq!(
        message,
        r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "foo", unknown field "metadata.nam""#
    );
}

#[test]
fn refuses_wrong_types_in_the_decoders_words() {
    let apps = ("apps", "v1", "Deployment");
    for (kind, value, want) in [
        (
            apps,
            json!({"spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            apps,
            json!({"spec": {"replicas": 3_000_000_000_i64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            apps,
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            apps,
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            apps,
            json!({"spec": {"template": {"spec": {"containers": {}}}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            apps,
            json!({"spec": {"template": {"spec": {"containers": [{"ports": [{"protocol": true}]}]}}}}),
            "json: cannot unmarshal bool into Go struct field \
             ContainerPort.spec.template.spec.containers.ports.protocol of type v1.Protocol",
        ),
        (
            apps,
            json!({"spec": "x"}),
            "json: cannot unmarshal string into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (apps, json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment"),
        (
            ("", "v1", "Pod"),
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (("", "v1", "Secret"), json!({"data": {"k": "no base64!"}}), "illegal base64 data at input byte 2"),
        (
            ("", "v1", "Event"),
            json!({"firstTimestamp": "yesterday"}),
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
        ),
        (
            ("", "v1", "Service"),
            json!({"spec": {"ports": [{"targetPort": true}]}}),
            "json: cannot unmarshal bool into Go value of type int32",
        ),
    ] {
        assert_eq!(decode_error(kind, value), want);
    }
}

#[test]
fn normalises_like_a_round_trip_through_go() {
    let pod = schema::kind("", "v1", "Pod").unwrap();
    let mut object = json!({
        "metadata": {"name": "x", "labels": {}, "annotations": {"a": null}, "creationTimestamp": null, "deletionTimestamp": "2026-01-02T04:04:05+01:00"},
        "spec": {
            "hostNetwork": false,
            "nodeName": "",
            "volumes": [{"name": "v", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "command": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
        },
    });
    assert_eq!(decode(&mut object, pod).unwrap(), Vec::<String>::new());
    assert_eq!(
        object,
        json!({
            "metadata": {"name": "x", "annotations": {"a": ""}, "deletionTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {
                "volumes": [{"name": "v", "emptyDir": {}}],
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
            },
            "status": {},
        })
    );
    let before = object.clone();
    decode(&mut object, pod).unwrap();
    assert_eq!(object, before);
}

#[test]
fn lets_arbitrary_json_pass() {
    let revision = schema::kind("apps", "v1", "ControllerRevision").unwrap();
    let mut object = json!({
        "metadata": {"name": "r", "managedFields": [{"fieldsV1": {"f:spec": {"f:x": {}}}, "manager": "m"}]},
        "data": {"spec": {"template": {"anything": [1, null, {"goes": true}]}}}, "revision": 0,
    });
    let before = object.clone();
    assert_eq!(decode(&mut object, revision).unwrap(), Vec::<String>::new());
    assert_eq!(object, before);
}
