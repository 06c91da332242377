use super::*;

#[test]
fn every_kind_is_found_with_its_fields() {
    for (group, version, name) in [
        ("", "v1", "Pod"),
        ("", "v1", "Node"),
        ("", "v1", "Namespace"),
        ("", "v1", "PodTemplate"),
        ("", "v1", "Service"),
        ("", "v1", "Endpoints"),
        ("", "v1", "ConfigMap"),
        ("", "v1", "Secret"),
        ("", "v1", "ServiceAccount"),
        ("", "v1", "Event"),
        ("", "v1", "Binding"),
        ("", "v1", "Status"),
        ("apps", "v1", "Deployment"),
        ("apps", "v1", "ReplicaSet"),
        ("apps", "v1", "DaemonSet"),
        ("apps", "v1", "ControllerRevision"),
        ("apps", "v1", "DeleteOptions"),
        ("batch", "v1", "Job"),
        ("coordination.k8s.io", "v1", "Lease"),
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        ("policy", "v1", "Eviction"),
        ("autoscaling", "v1", "Scale"),
        ("authentication.k8s.io", "v1", "TokenRequest"),
    ] {
        let ty = kind(group, version, name).unwrap_or_else(|| panic!("{group}/{version} {name}"));
        assert!(ty.is_kind && ty.name == name, "{name}");
        assert!(!ty.description.is_empty(), "{name}");
        assert!(ty.field("apiVersion").is_some() && ty.field("kind").is_some(), "{name}");
        if ty.field("spec").is_some() && ty.field("metadata").is_some() {
            let list = kind(group, version, &format!("{name}List"));
            let stored = !["TokenRequest", "Scale"].contains(&name);
            assert_eq!(list.is_some(), stored, "{name}List");
        }
    }
    assert!(kind("apps", "v1", "Pod").is_none());
    assert!(kind("apps", "v1beta1", "Deployment").is_none());
}

#[test]
fn fields_carry_the_facts() {
    let pod_spec = structure("core", "PodSpec").unwrap();
    let containers = pod_spec.field("containers").unwrap();
    assert!(containers.required && containers.keep);
    assert_eq!(containers.patch, Patch { merge: true, key: Some("name"), ..Patch::default() });
    assert_eq!(containers.list, ListKind::Map(vec!["name"]));
    assert_eq!(containers.shape.go_name(), "[]v1.Container");
    let Shape::List(item) = &containers.shape else { panic!("{:?}", containers.shape) };
    let ports = item.structure().unwrap().field("ports").unwrap();
    assert_eq!(ports.patch.key, Some("containerPort"));
    assert_eq!(ports.list, ListKind::Map(vec!["containerPort", "protocol"]));
    let volumes = pod_spec.field("volumes").unwrap();
    assert!(volumes.patch.merge && volumes.patch.retain_keys);
    assert!(structure("meta", "LabelSelector").unwrap().atomic);
    assert!(pod_spec.field("nodeSelector").unwrap().atomic);
    assert_eq!(structure("meta", "ObjectMeta").unwrap().field("finalizers").unwrap().list, ListKind::Set);
    assert_eq!(structure("apps", "DeploymentSpec").unwrap().field("replicas").unwrap().default, Some(1.into()));
    assert!(pod_spec.defaulting && !structure("meta", "ObjectMeta").unwrap().defaulting);
}

#[test]
fn names_are_unique_and_every_reference_holds() {
    let mut seen = std::collections::HashSet::new();
    for ty in types() {
        assert!(seen.insert(ty.openapi_name()), "{}", ty.openapi_name());
        assert!(ty.fields.windows(2).all(|pair| pair[0].name < pair[1].name), "{}", ty.name);
        for field in &ty.fields {
            if let (Some(key), Shape::List(item)) = (field.patch.key, &field.shape) {
                assert!(item.structure().unwrap().field(key).is_some(), "{}.{}", ty.name, field.name);
            }
            if let (ListKind::Map(keys), Shape::List(item)) = (&field.list, &field.shape) {
                let item = item.structure().unwrap();
                assert!(keys.iter().all(|key| item.field(key).is_some()), "{}.{}", ty.name, field.name);
            }
        }
    }
    assert!(seen.len() > 200);
}

#[test]
fn refuses_a_broken_file() {
    for (text, want) in [
        ("package a b v1\n\ntype T\n  x Nowhere\n", "T: bad field line"),
        ("package a b v1\n\ntype T\n  x string what\n", "T: bad field line"),
        ("type T\n", "a type before"),
        ("package a b v1\ntype T\ntype T\n", "twice"),
    ] {
        let error = parse::parse(&[text]).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
}
