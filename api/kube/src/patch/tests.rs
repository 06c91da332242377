use proptest::prelude::*;
use serde_json::{Map, Value, json as value};

use super::*;
use crate::schema::{self, Shape, Type};
use crate::validate;

fn run(name: &str, text: &str, apply: impl Fn(&Value, Value, Value) -> Result<Value, PatchError>) {
    for document in text.split("\n---\n") {
        let case =
            validate::parse_strict_yaml(document.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}\n{document}")).0;
        let about = case["about"].as_str().unwrap();
        let found = match apply(&case, case["object"].clone(), case["patch"].clone()) {
            Ok(value) => value!({ "result": value }),
            Err(error) => value!({"error": format!("{} {error}", error.code())}),
        };
        let wanted: Map<String, Value> = case
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| ["result", "error"].contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(found, Value::Object(wanted), "{name}: {about}");
    }
}

fn kind_of(case: &Value) -> &'static Type {
    let (version, kind) = case["kind"].as_str().unwrap().split_once(' ').unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    schema::kind(group, version, kind).unwrap()
}

#[test]
fn goldens() {
    run("strategic", include_str!("testdata/strategic.yaml"), |case, object, patch| {
        strategic(object, patch, kind_of(case))
    });
    run("json", include_str!("testdata/json.yaml"), |_, object, patch| json(object, patch));
    run("merge", include_str!("testdata/merge.yaml"), |_, object, patch| merge(object, patch));
}

#[test]
fn json_patches_are_bounded() {
    let many = Value::Array(vec![value!({"op": "test", "path": "/a", "value": null}); MAX_JSON_OPERATIONS + 1]);
    let error = json(value!({}), many).unwrap_err();
    assert_eq!(error.code(), 413);
    assert_eq!(error.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
    // Each copy doubles the document: 2^60 times its size if nobody counted.
    let doubling = Value::Array(vec![value!({"op": "copy", "from": "/a", "path": "/a/-"}); 60]);
    let error = json(value!({"a": ["x".repeat(64)]}), doubling).unwrap_err();
    assert!(error.to_string().starts_with("Unable to complete the copy"), "{error}");
}

/// A strategic patch that turns one object into another, as `kubectl apply` computes it.
fn diff(old: &Map<String, Value>, new: &Map<String, Value>, ty: Option<&'static Type>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, before) in old {
        match new.get(key) {
            None => drop(patch.insert(key.clone(), Value::Null)),
            Some(after) if after == before => {}
            Some(after) => diff_field(&mut patch, key, before, after, ty),
        }
    }
    for (key, after) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        patch.insert(key.clone(), after.clone());
    }
    patch
}

fn diff_field(patch: &mut Map<String, Value>, key: &str, before: &Value, after: &Value, ty: Option<&'static Type>) {
    let field = ty.and_then(|ty| ty.field(key));
    let how = field.map(|field| field.patch).unwrap_or_default();
    let below = field.and_then(|field| match &field.shape {
        Shape::List(item) => item.structure(),
        shape => shape.structure(),
    });
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut changes = diff(before, after, below);
            if how.retain_keys {
                changes.insert("$retainKeys".into(), after.keys().cloned().collect::<Vec<_>>().into());
            }
            patch.insert(key.into(), changes.into());
        }
        (Value::Array(before), Value::Array(after)) if how.merge => {
            let Some(merge_key) = how.key else {
                let gone: Vec<Value> = before.iter().filter(|item| !after.contains(item)).cloned().collect();
                let added: Vec<Value> = after.iter().filter(|item| !before.contains(item)).cloned().collect();
                patch.insert(format!("$deleteFromPrimitiveList/{key}"), gone.into());
                patch.insert(format!("$setElementOrder/{key}"), after.clone().into());
                patch.insert(key.into(), added.into());
                return;
            };
            let mut changes = Vec::new();
            for item in after {
                match before.iter().find(|old| old[merge_key] == item[merge_key]) {
                    None => changes.push(item.clone()),
                    Some(old) if old == item => {}
                    Some(old) => {
                        let (old, new) = (old.as_object().unwrap(), item.as_object().unwrap());
                        let mut change = diff(old, new, below);
                        change.insert(merge_key.into(), item[merge_key].clone());
                        if how.retain_keys {
                            change.insert("$retainKeys".into(), new.keys().cloned().collect::<Vec<_>>().into());
                        }
                        changes.push(change.into());
                    }
                }
            }
            for old in before.iter().filter(|old| !after.iter().any(|item| item[merge_key] == old[merge_key])) {
                changes.push(value!({merge_key: old[merge_key], "$patch": "delete"}));
            }
            let order: Vec<Value> = after.iter().map(|item| value!({merge_key: item[merge_key]})).collect();
            patch.insert(format!("$setElementOrder/{key}"), order.into());
            patch.insert(key.into(), changes.into());
        }
        (_, after) => drop(patch.insert(key.into(), after.clone())),
    }
}

fn keyed(names: &'static str, value: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = Value> {
    let names: Vec<String> = names.chars().map(String::from).collect();
    let count = names.len();
    (proptest::sample::subsequence(names, 0..=count).prop_shuffle(), proptest::collection::vec(value, count)).prop_map(
        |(names, values)| {
            names
                .into_iter()
                .zip(values)
                .map(|(name, mut item)| {
                    item["name"] = name.into();
                    item
                })
                .collect::<Vec<Value>>()
                .into()
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let env = keyed("xyz", (0..2).prop_map(|n: i32| value!({"value": n.to_string()})));
    let container =
        (env, proptest::collection::vec(0..3, 0..3), proptest::option::of(0..3)).prop_map(|(env, args, cpu)| {
            let mut container = value!({"env": env, "args": args});
            if let Some(cpu) = cpu {
                container["resources"] = value!({"limits": {"cpu": cpu}});
            }
            container
        });
    let volume = prop_oneof![
        Just(value!({"emptyDir": {}})),
        (0..3).prop_map(|n: i32| value!({"configMap": {"name": n.to_string()}})),
        (0..3).prop_map(|n: i32| value!({"secret": {"secretName": n.to_string(), "optional": true}})),
    ];
    let finalizers = proptest::sample::subsequence(vec!["a/a", "b/b", "c/c", "d/d"], 0..=4).prop_shuffle();
    let labels = proptest::collection::btree_map("[abc]", "[12]", 0..3);
    (keyed("abcd", container.boxed()), keyed("vw", volume.boxed()), finalizers, labels).prop_map(
        |(containers, volumes, finalizers, labels)| {
            value!({
                "metadata": {"labels": labels, "finalizers": finalizers},
                "spec": {"containers": containers, "volumes": volumes},
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_diff_applied_gives_the_target(old in pod(), new in pod()) {
        let ty = schema::kind("", "v1", "Pod").unwrap();
        let patch = Value::Object(diff(old.as_object().unwrap(), new.as_object().unwrap(), Some(ty)));
        prop_assert_eq!(strategic(old, patch.clone(), ty).unwrap(), new, "{}", patch);
    }

    #[test]
    fn what_others_added_survives(old in pod(), new in pod()) {
        let ty = schema::kind("", "v1", "Pod").unwrap();
        let patch = Value::Object(diff(old.as_object().unwrap(), new.as_object().unwrap(), Some(ty)));
        let mut current = old;
        current["metadata"]["labels"]["injected"] = "yes".into();
        current["spec"]["containers"].as_array_mut().unwrap().push(value!({"name": "sidecar"}));
        let found = strategic(current, patch, ty).unwrap();
        prop_assert_eq!(&found["metadata"]["labels"]["injected"], "yes");
        let mut containers = found["spec"]["containers"].as_array().unwrap().clone();
        containers.retain(|container| container["name"] != "sidecar");
        prop_assert_eq!(containers.len() + 1, found["spec"]["containers"].as_array().unwrap().len());
        prop_assert_eq!(Value::Array(containers), new["spec"]["containers"].clone());
    }

    #[test]
    fn no_patch_can_make_it_panic(old in pod(), patch in arbitrary_patch()) {
        let ty = schema::kind("", "v1", "Pod").unwrap();
        let _ = strategic(old.clone(), patch.clone(), ty);
        let _ = json(old.clone(), patch.clone());
        let _ = merge(old, patch);
    }
}

fn arbitrary_patch() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(value!("delete")),
        Just(value!("replace")),
        Just(value!(1)),
        Just(value!("a"))
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let key = proptest::sample::select(vec![
            "metadata",
            "spec",
            "containers",
            "finalizers",
            "labels",
            "volumes",
            "name",
            "env",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$setElementOrder/finalizers",
            "$deleteFromPrimitiveList/finalizers",
        ]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}
