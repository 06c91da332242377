//! Which crate may know which: the arrows of ARCHITECTURE.md, held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate, then the workspace crates that it may depend on. A new edge is a design decision.
const ALLOWED: &[(&str, &[&str])] = &[
    ("kelson-engine", &[]),
    ("kelson-sched", &[]),
    ("kelson-wire", &[]),
    ("kelson-bolt", &[]),
    ("kelson-raft", &["kelson-engine"]),
    ("kelson-etcd", &["kelson-raft", "kelson-engine", "kelson-wire", "kelson-bolt"]),
    ("kelson-kube", &["kelson-wire"]),
    ("kelson-controllers", &["kelson-wire", "kelson-sched"]),
    ("kelson-nodesim", &["kelson-wire"]),
    (
        "kelson",
        &[
            "kelson-engine",
            "kelson-raft",
            "kelson-sched",
            "kelson-wire",
            "kelson-bolt",
            "kelson-etcd",
            "kelson-kube",
            "kelson-controllers",
            "kelson-nodesim",
            "kelson-benches",
        ],
    ),
    ("kelson-benches", &["kelson-wire"]),
];

/// External crates that only the named crates may depend on.
const CONFINED: &[(&str, &[&str])] = &[
    ("openraft", &["kelson-raft"]),
    ("rocksdb", &["kelson-engine"]),
    ("tonic", &["kelson-wire", "kelson-etcd"]),
    ("anyhow", &["kelson"]),
    ("clap", &["kelson"]),
];

/// External crates that a pure core must not know.
const PURE: &[&str] = &["kelson-engine", "kelson-sched"];
const IMPURE: &[&str] = &["tokio", "hyper", "rand", "time", "serde_json", "futures-util"];

/// Normal and build dependencies by crate of the workspace; what tests alone use does not count.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    metadata
        .packages
        .iter()
        .map(|package| {
            let names = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), names)
        })
        .collect()
}

fn violations(dependencies: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, used) in dependencies {
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| crate_name == name) else {
            found.push(format!("{name} has no row in ALLOWED"));
            continue;
        };
        for dependency in used {
            if dependencies.contains_key(dependency) && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{name} -> {dependency}"));
            }
            let confined = CONFINED.iter().find(|(outside, _)| outside == dependency);
            if confined.is_some_and(|(_, owners)| !owners.contains(&name.as_str())) {
                found.push(format!("{name} -> {dependency} (confined)"));
            }
            if PURE.contains(&name.as_str()) && IMPURE.contains(&dependency.as_str()) {
                found.push(format!("{name} -> {dependency} (a pure core)"));
            }
        }
    }
    found
}

#[test]
fn crates_know_only_whom_they_may() {
    let dependencies = dependencies();
    assert_eq!(dependencies.len(), ALLOWED.len(), "every workspace crate has a row: {:?}", dependencies.keys());
    assert_eq!(violations(&dependencies), Vec::<String>::new());
}

#[test]
fn a_forbidden_edge_is_noticed() {
    let mut dependencies = dependencies();
    for (from, to) in [("kelson-kube", "kelson-raft"), ("kelson-wire", "rocksdb"), ("kelson-sched", "tokio")] {
        dependencies.get_mut(from).expect(from).insert(to.into());
    }
    assert_eq!(violations(&dependencies).len(), 3);
}
