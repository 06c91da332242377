use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A length-delimited field.
fn part(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

fn int(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [part(1, version.as_bytes()), part(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), part(1, &meta), part(2, raw), part(3, b""), part(4, b"")].concat()
}

#[test]
fn every_structure_has_its_numbers() {
    for ty in schema::types() {
        let Some(numbers) = NUMBERS.get(&(ty.package().alias, ty.name)) else { panic!("{} has no numbers", ty.name) };
        let mut named: Vec<&str> = Vec::new();
        let mut collect = |numbers: &Numbers| {
            for slot in numbers.values() {
                match slot {
                    Slot::Field(field) => named.push(field.name),
                    Slot::Inline(inner) => {
                        named.extend(inner.values().filter_map(|slot| match slot {
                            Slot::Field(field) => Some(field.name),
                            Slot::Inline(_) => None,
                        }));
                    }
                }
            }
        };
        collect(numbers);
        for field in &ty.fields {
            let is_type_meta = ty.is_kind && matches!(field.name, "apiVersion" | "kind");
            assert!(is_type_meta || named.contains(&field.name), "{}.{}", ty.name, field.name);
        }
    }
}

#[test]
fn an_object_reads_like_its_json() {
    // A Job as a Go client writes it: zero values included, the zero time as an empty message.
    let metadata = [
        part(1, b"j"),
        part(2, b""),
        part(3, b"default"),
        part(8, b""),
        part(11, &[part(1, b"a"), part(2, b"b")].concat()),
    ];
    let port = [part(1, b"http"), int(2, 0), int(3, 80), part(4, b"TCP"), part(5, b"")].concat();
    let cpu = [part(1, b"cpu"), part(2, &part(1, b"100m"))].concat();
    let probe = [
        part(1, &part(2, &[part(1, b"/"), part(2, &[int(1, 1), int(2, 0), part(3, b"http")].concat())].concat())),
        int(2, 0),
    ];
    let container = [
        part(1, b"c"),
        part(2, b"busybox"),
        part(3, b"echo"),
        part(3, b"hi"),
        part(6, &port),
        part(8, &part(2, &cpu)),
        part(10, &probe.concat()),
    ];
    let volume = [part(1, b"v"), part(2, &part(2, &part(1, b"")))].concat();
    let spec = [part(1, &volume), part(2, &container.concat()), part(3, b"Never"), int(4, 30)].concat();
    let template = part(2, &spec);
    let raw = [part(1, &metadata.concat()), part(2, &[int(1, 2), part(6, &template)].concat()), part(3, b"")].concat();
    let object = decode(&body("batch/v1", "Job", &raw)).unwrap();
    assert_eq!(
        object,
        json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "j", "generateName": "", "namespace": "default", "creationTimestamp": null, "labels": {"a": "b"}},
            "spec": {"parallelism": 2, "template": {"spec": {
                "volumes": [{"name": "v", "emptyDir": {"medium": ""}}],
                "containers": [{
                    "name": "c", "image": "busybox", "command": ["echo", "hi"],
                    "ports": [{"name": "http", "hostPort": 0, "containerPort": 80, "protocol": "TCP", "hostIP": ""}],
                    "resources": {"requests": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 0},
                }],
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 30,
            }}},
            "status": {},
        })
    );
}

#[test]
fn times_bytes_and_negative_numbers() {
    let seconds = [0x08, 0x80, 0xe2, 0xcf, 0xaa, 0x06];
    let micro = [&seconds[..], &[0x10, 0xe8, 0x07]].concat();
    let spec = [part(1, b"me"), part(4, &micro)].concat();
    let lease = decode(&body("coordination.k8s.io/v1", "Lease", &part(2, &spec))).unwrap();
    assert_eq!(lease["spec"], json!({"holderIdentity": "me", "renewTime": "2023-11-14T22:13:20.000001Z"}));
    let secret = decode(&body("v1", "Secret", &part(2, &[part(1, b"k"), part(2, b"\xff\0")].concat()))).unwrap();
    assert_eq!(secret["data"], json!({"k": "/wA="}));
    let minus = [vec![1 << 3], vec![0xff; 9], vec![1]].concat();
    let scale = decode(&body("autoscaling/v1", "Scale", &part(2, &minus))).unwrap();
    assert_eq!(scale["spec"]["replicas"], -1);
}

#[test]
fn what_is_no_object_is_refused() {
    assert_eq!(decode(b"{}"), Err(DecodeError::NoMagic));
    assert!(matches!(decode(&body("v1", "Nothing", b"")), Err(DecodeError::UnknownKind { .. })));
    assert_eq!(decode(&body("v1", "Pod", &[0x0a, 0x7f])), Err(DecodeError::Truncated));
    assert!(matches!(decode(&body("v1", "Pod", &int(1, 1))), Err(DecodeError::WireType { .. })));
    assert_eq!(decode(&body("v1", "Pod", &part(1, &part(1, b"\xff")))), Err(DecodeError::NotUtf8("name")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn garbage_never_panics(raw in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode(&body("v1", "Pod", &raw));
        let _ = decode(&raw);
    }
}
