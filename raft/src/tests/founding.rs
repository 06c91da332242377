//! A node opens what was founded for it, and nothing that was left unfinished.

use std::sync::Arc;

use kelson_engine::{Error as EngineError, Export, Importer, MemoryBackend, Reader};

use super::{TestDisk, config, dump, open, write};
use crate::{Config, Data, Error, Founding, dir::DataDir, start::Parts};

/// Everything of one store into another.
fn copy(from: &Reader, importer: &mut Importer) -> i64 {
    let copied: Result<i64, EngineError> = from.export(|export: &Export| {
        export.writes(|kept| importer.write(kept))?;
        export.leases(|lease| importer.lease(lease))?;
        Ok(export.revision())
    });
    copied.unwrap()
}

#[tokio::test]
async fn a_founded_node_serves_and_restarts() {
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let first = open(config(), &disk, &backend).await.unwrap();
    for number in 0..20 {
        write(&first, format!("key{number}"), "value").await;
    }
    let (disk, backend) = (Arc::new(TestDisk::default()), Arc::new(MemoryBackend::new()));
    let parts = Parts::of(disk.clone(), backend.clone());
    let founding = Founding::of(config(), parts);
    let mut importer = founding.importer(0).unwrap();
    let revision = copy(first.reader(), &mut importer);
    founding.finish(importer, revision, 0).unwrap();

    for round in 0..3 {
        let again = open(config(), &disk, &backend).await.unwrap();
        assert_eq!(dump(&again)[..20], dump(&first)[..20]);
        assert_eq!(again.members().len(), 1);
        assert!(again.is_leader());
        assert_eq!(write(&again, format!("new{round}"), "1").await, revision + 1 + round);
        again.shutdown().await.unwrap();
    }
    // It is this member's and no other's.
    let other = Config { node_id: 77, ..config() };
    assert!(matches!(open(other, &disk, &backend).await.err(), Some(Error::Mismatch { .. })));
    first.shutdown().await.unwrap();
}

#[test]
fn an_unfinished_directory_is_refused_and_founded_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    let dir = DataDir::found(&path).unwrap();
    assert!(matches!(DataDir::found(&path), Err(Error::InUse(_))));
    std::fs::create_dir(path.join("log")).unwrap();
    std::fs::write(path.join("log/half"), "x").unwrap();
    // The process dies here.
    drop(dir);
    let error = DataDir::open(&path).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains("was not completed"), "{error}");
    let again = DataDir::found(&path).unwrap();
    assert!(!path.join("log").exists());
    again.founded().unwrap();
    DataDir::open(&path).unwrap();
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    std::fs::create_dir_all(path.join("member/snap")).unwrap();
    let error = DataDir::found(&path).unwrap_err().to_string();
    assert_eq!(error, format!("cannot use data directory {}: it is not empty", path.display()));
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    DataDir::found(&path).unwrap().discard();
    assert!(!path.exists());
    // Memory cannot be founded, and says so.
    assert!(matches!(Founding::begin(Config::new("a", Data::Memory)), Err(Error::Config(_))));
}
