use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::validate::parse_strict_yaml;

/// 2026-01-02T00:00:00Z.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_312_000)
}

fn check(name: &str, text: &str, resource: Option<&str>) {
    for document in text.split("\n---\n") {
        let case = parse_strict_yaml(document.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}\n{document}")).0;
        let resource = case["resource"].as_str().or(resource).unwrap();
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let cells = row(group, plural, &case["object"], now());
        assert_eq!(Value::Array(cells.clone()), case["row"], "{name}: {}", case["about"]);
        let columns = columns(group, plural).as_array().unwrap();
        assert_eq!(columns.len(), cells.len(), "{resource}");
        for (column, cell) in columns.iter().zip(&cells) {
            assert!(cell.is_string() || cell.is_i64(), "{resource} {column}: {cell}");
            assert!(column["type"] != "integer" || cell.is_i64(), "{resource} {column}: {cell}");
        }
        let bytes = serde_json::to_vec(&case["object"]).unwrap();
        for (include, object) in [
            (Include::None, None),
            (
                Include::Metadata,
                Some(json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": case["object"]["metadata"],
                })),
            ),
            (Include::Object, Some(case["object"].clone())),
        ] {
            let mut out = Vec::new();
            write_row(group, plural, &bytes, now(), include, &mut out).unwrap();
            let written: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(written["cells"], case["row"]);
            assert_eq!(written.get("conditions"), case.get("conditions"));
            assert_eq!(written.get("object"), object.as_ref());
        }
    }
}

#[test]
fn pods() {
    check("pods", include_str!("testdata/pods.yaml"), Some("pods"));
}

#[test]
fn others() {
    check("others", include_str!("testdata/others.yaml"), None);
}

#[test]
fn every_table_is_in_a_golden() {
    let goldens = include_str!("testdata/others.yaml");
    for name in COLUMNS.keys() {
        assert!(*name == "pods" || goldens.contains(&format!("resource: {name}\n")), "{name}");
    }
    assert_eq!(COLUMNS.len(), 17);
    assert_eq!(
        columns("", "pods")[5],
        json!({"name": "IP", "type": "string", "format": "", "description": "", "priority": 1})
    );
}

#[test]
fn an_odd_object_still_has_a_row() {
    let odd =
        json!({"metadata": {"name": "odd"}, "spec": "text", "status": {"containerStatuses": [{"restartCount": "x"}]}});
    assert_eq!(row("", "pods", &odd, now())[0], "odd");
    let mut out = Vec::new();
    write_row("", "pods", odd.to_string().as_bytes(), now(), Include::None, &mut out).unwrap();
    assert!(out.starts_with(br#"{"cells":["odd""#));
    assert!(write_row("", "pods", b"nonsense", now(), Include::None, &mut Vec::new()).is_err());
}
