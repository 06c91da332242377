use serde_json::{Value, json};

use super::*;
use crate::schema::{self, Type};
use crate::{defaults, patch};

fn bases() -> Value {
    parse_strict_yaml(include_str!("testdata/bases.yaml").as_bytes()).unwrap().0
}

fn kind_of(object: &Value) -> &'static Type {
    let version = object["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    schema::kind(group, version, object["kind"].as_str().unwrap()).unwrap()
}

/// As a request would have it: decoded, defaulted, prepared.
fn prepared(mut object: Value) -> (Value, &'static Type) {
    let ty = kind_of(&object);
    assert_eq!(decode(&mut object, ty).unwrap(), Vec::<String>::new());
    defaults::apply(&mut object, ty);
    let status = object.get("status").cloned();
    defaults::prepare_create(&mut object, ty);
    if let Some(status) = status {
        object["status"] = status;
    }
    (object, ty)
}

fn run(name: &str, text: &str, check: impl Fn(&Value, Value) -> Vec<FieldError>) {
    let bases = bases();
    for document in text.split("\n---\n") {
        let case = parse_strict_yaml(document.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}\n{document}")).0;
        let base = bases.get(case["base"].as_str().unwrap()).unwrap_or_else(|| panic!("{document}")).clone();
        let found: Vec<String> = check(&case, base).iter().map(FieldError::to_string).collect();
        let wanted: Vec<String> = serde_json::from_value(case["errors"].clone()).unwrap();
        let missing: Vec<&String> = wanted.iter().filter(|text| !found.contains(text)).collect();
        let extra: Vec<&String> = found.iter().filter(|text| !wanted.contains(text)).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{name}\n{document}\nmissing: {missing:#?}\nextra: {extra:#?}");
        assert_eq!(found, wanted, "{name}: order\n{document}");
    }
}

#[test]
fn the_bases_are_valid() {
    for (name, base) in bases().as_object().unwrap() {
        let (object, ty) = prepared(base.clone());
        assert_eq!(create(&object, ty), [], "{name}");
        let mut again = object.clone();
        again["metadata"]["resourceVersion"] = "1".into();
        assert_eq!(update(&again, &object, ty), [], "{name}");
    }
}

#[test]
fn what_is_wrong_with_new_objects() {
    run("create", include_str!("testdata/create.yaml"), |case, base| {
        let (object, ty) = prepared(patch::merge(base, case["merge"].clone()).unwrap());
        create(&object, ty)
    });
}

#[test]
fn what_may_not_change() {
    run("update", include_str!("testdata/update.yaml"), |case, base| {
        let (mut old, ty) = prepared(patch::merge(base, case.get("old").cloned().unwrap_or(json!({}))).unwrap());
        old["metadata"]["resourceVersion"] = "1".into();
        let mut new = patch::merge(old.clone(), case["merge"].clone()).unwrap();
        decode(&mut new, ty).unwrap();
        defaults::apply(&mut new, ty);
        update(&new, &old, ty)
    });
}

#[test]
fn a_status_tells_everything() {
    let deployment = schema::kind("apps", "v1", "Deployment").unwrap();
    let mut errors = Errors::default();
    let spec = Path::ROOT.field("spec");
    errors.invalid(&spec.field("replicas"), -1, "must be greater than or equal to 0");
    let one = "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(invalid_message(deployment, "x", &errors.0), one);
    errors.required(&spec.field("selector"), "");
    errors.required(&spec.field("selector"), "");
    let status = invalid_status(deployment, "x", &errors.0);
    assert_eq!(
        status["message"],
        "Deployment.apps \"x\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.selector: Required value]"
    );
    assert_eq!(
        status["details"]["causes"][0],
        json!({
            "reason": "FieldValueInvalid",
            "message": "Invalid value: -1: must be greater than or equal to 0",
            "field": "spec.replicas",
        })
    );
    assert_eq!(status["details"]["group"], "apps");
    assert_eq!(status["code"], 422);
    let pod = schema::kind("", "v1", "Pod").unwrap();
    assert_eq!(invalid_message(pod, "a\"b", &[]), "Pod \"a\\\"b\" is invalid");
}

#[test]
fn sizes_are_bounded() {
    let mut base = bases();
    let mut object = base["configmap"].take();
    object["data"]["big"] = "x".repeat(1 << 20).into();
    object["metadata"]["annotations"] = json!({"big": "x".repeat(256 << 10)});
    let (object, ty) = prepared(object);
    let found: Vec<String> = create(&object, ty).iter().map(FieldError::to_string).collect();
    assert_eq!(
        found,
        [
            "metadata.annotations: Too long: may not be more than 262144 bytes",
            ": Too long: may not be more than 1048576 bytes"
        ]
    );
}
