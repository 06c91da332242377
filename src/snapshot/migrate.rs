//! `kelson migrate`: a data directory from a running etcd, by its snapshot where that is allowed, else by its keys.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use kelson_bolt::Db;
use kelson_engine::LeaseTime;
use kelson_etcd::backup::Restored;
use kelson_raft::{Config, Data, Error as RaftError, Founding};
use kelson_wire::remote::{Page, SnapshotStream, Transfer, TransferError};

use super::save::{FetchError, fetch};
use super::spool::Spool;
use super::{Migrate, blocking, restore};
use crate::progress::Progress;

/// Keys in one page of a range.
const PAGE: i64 = 1_000;
/// Leases asked for at a time.
const LEASES: usize = 32;

/// Runs `kelson migrate`.
pub async fn run(options: Migrate) -> Result<()> {
    let config = options.target.config()?;
    let Data::Dir(folder) = &config.data else { bail!("--data-dir names no directory") };
    let folder = folder.clone();
    let (transfer, status) = super::connect(&options.from, &options.door, "--from").await?;
    println!("moving from {} (etcd {})", transfer.endpoint(), status.version);
    // Refused before anything is fetched, and kept from others while it is.
    let founding = Founding::begin(config.clone()).context("--data-dir")?;
    let fetched = match transfer.snapshot().await {
        Ok(stream) => snapshot(stream, &folder).await,
        Err(error) => Err(error.into()),
    };
    match fetched {
        Ok(db) => {
            blocking(move || {
                let mut progress = Progress::bytes("restoring", db.size());
                let path = founding.path();
                let restored = kelson_etcd::backup::restore(&db, founding, 0, |bytes| progress.set(bytes))?;
                progress.finish();
                restore::report(&restored, &path);
                println!("by its snapshot: every revision, lease, user and role is as it was there");
                Ok(())
            })
            .await
        }
        Err(FetchError::Transfer(TransferError::Refused { message, .. })) => {
            println!("the snapshot is not to be had ({message}); moving keys and leases one by one");
            ranges(transfer, founding, config).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Fetches the snapshot into a file without a name.
async fn snapshot(stream: SnapshotStream, folder: &Path) -> Result<Db, FetchError> {
    let file = tempfile::tempfile_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    fetch(stream, &file, folder).await?;
    Ok(Db::of(file, "the fetched snapshot").map_err(anyhow::Error::from)?)
}

/// Takes every key at one revision, and the leases.
async fn ranges(transfer: Transfer, founding: Founding, config: Config) -> Result<()> {
    let Data::Dir(folder) = config.data else { bail!("--data-dir names no directory") };
    let mut spool = Spool::new(&folder)?;
    let mut progress: Option<Progress> = None;
    let (mut start, mut at) = (Bytes::from_static(b"\0"), 0);
    loop {
        let Page { kvs, more, revision } = transfer.page(start.clone(), at, PAGE).await.context("reading the keys")?;
        if at == 0 {
            // All pages are of one moment.
            at = revision;
        }
        for kv in &kvs {
            spool.push(kv)?;
        }
        progress.get_or_insert_with(|| Progress::counting("keys")).set(spool.len() as u64);
        match kvs.last() {
            Some(last) if more => start = [&last.key[..], &[0]].concat().into(),
            _ => break,
        }
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    let leases = leases(&transfer).await?;
    let path: PathBuf = founding.path();
    blocking(move || {
        // History is not to be had: everything up to here counts as compacted.
        let mut importer = founding.importer(at)?;
        let writes = spool.len() as u64;
        spool.drain(|write| Ok(importer.write(write).map_err(RaftError::from)?))?;
        for lease in &leases {
            importer.lease(*lease).map_err(RaftError::from)?;
        }
        founding.finish(importer, at, at)?;
        let leases = leases.len() as u64;
        restore::report(&Restored { revision: at, compacted: at, writes, leases, ..Restored::default() }, &path);
        println!(
            "by its keys: they have the revisions and versions that they had there; \
             NOT moved: history before revision {at}, users and roles, alarms"
        );
        Ok(())
    })
    .await
}

async fn leases(transfer: &Transfer) -> Result<Vec<LeaseTime>> {
    let ids = transfer.leases().await.context("reading the leases")?;
    let asked = ids.into_iter().map(|id| async move {
        let found = transfer.lease(id).await.with_context(|| format!("reading lease {id:x}"))?;
        let lease = |left: kelson_wire::remote::LeaseLeft| LeaseTime {
            id,
            ttl: left.granted,
            // What is left is as good as a checkpoint; one that has just run out keeps a second to be revoked in.
            remaining: if left.left < left.granted { left.left.max(1) } else { 0 },
        };
        anyhow::Ok(found.map(lease))
    });
    let mut found = Vec::new();
    let mut answers = futures_util::stream::iter(asked).buffer_unordered(LEASES);
    while let Some(answer) = answers.next().await {
        found.extend(answer?);
    }
    Ok(found)
}
