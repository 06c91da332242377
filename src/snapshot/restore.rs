//! `kelson snapshot restore`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kelson_bolt::Db;
use kelson_etcd::backup::{self, Restored};
use kelson_raft::{Config, Data, Founding};

use super::file::{self, Sum};
use super::{Restore, Target};
use crate::progress::Progress;
use crate::store::{
    cluster::{self, Founded},
    url::Url,
};

/// Checks the snapshot and makes a data directory of it.
pub fn run(options: &Restore) -> Result<()> {
    let config = options.target.config()?;
    let sum = if options.skip_hash_check { Sum::Ignored } else { Sum::Needed };
    let db = file::open(&options.file, sum)?;
    into(&db, config, options.bump_revision)
}

/// Makes a data directory of a backend file, and says what is in it.
pub fn into(db: &Db, config: Config, bump: u64) -> Result<()> {
    let founding = Founding::begin(config).context("--data-dir")?;
    let folder = founding.path();
    let mut progress = Progress::bytes("restoring", db.size());
    let restored = backup::restore(db, founding, bump, |bytes| progress.set(bytes))?;
    progress.finish();
    report(&restored, &folder);
    Ok(())
}

/// Prints what a data directory holds now.
pub fn report(restored: &Restored, folder: &std::path::Path) {
    let Restored { revision, compacted, writes, leases, users, roles, alarms } = restored;
    let history = if *compacted > 0 { format!("history since {compacted}") } else { "all of its history".to_owned() };
    println!(
        "{} holds revision {revision} with {history}: {writes} writes, {leases} leases, {users} users, {roles} roles",
        folder.display()
    );
    if *alarms > 0 {
        println!("{alarms} alarms stand, as in the store that this came from; `etcdctl alarm disarm` ends them");
    }
}

impl Target {
    /// The member's configuration; one of its own cluster.
    ///
    /// # Errors
    /// If the flags contradict each other; the text names them.
    pub fn config(&self) -> Result<Config> {
        let url = |text: &String| {
            Url::parse(text).map_err(|why| anyhow::anyhow!("--initial-advertise-peer-urls {text}: {why}"))
        };
        let mut urls: Vec<Url> = self.initial_advertise_peer_urls.iter().map(url).collect::<Result<_>>()?;
        urls.sort();
        if let Some(text) = &self.initial_cluster {
            let members = cluster::members(text).map_err(|why| anyhow::anyhow!("--initial-cluster {text}: {why}"))?;
            let Some(named) = members.get(&self.name) else {
                let unknown = "couldn't find local name";
                bail!("{unknown} {:?} in the initial cluster configuration (--name, --initial-cluster)", self.name)
            };
            if *named != urls {
                let urls = self.initial_advertise_peer_urls.join(",");
                bail!("--initial-cluster {text} does not match --initial-advertise-peer-urls {urls}");
            }
        }
        let members = match &self.initial_cluster {
            Some(text) => cluster::members(text).map_err(|why| anyhow::anyhow!("--initial-cluster {text}: {why}"))?,
            None => [(self.name.clone(), urls.clone())].into(),
        };
        let Founded { member_id, cluster_id, members, .. } =
            cluster::founded(&self.name, &members, &self.initial_cluster_token);
        let peer_urls = urls.iter().map(ToString::to_string).collect();
        let folder = self.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", self.name)));
        let (node_id, founders) = (member_id, members);
        Ok(Config { node_id, cluster_id, peer_urls, founders, ..Config::new(&self.name, Data::Dir(folder)) })
    }
}
