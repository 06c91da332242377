//! A data directory made from a state that comes from elsewhere: a snapshot, or another store.
//!
//! It is marked as unfinished before anything else is written, and stays so until all of it is on stable storage:
//! a node refuses to open it meanwhile, and whoever founds again begins anew.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use kelson_engine::{Applied, Importer};

use crate::{
    Config, Data, Error, codec,
    codec::Identity,
    dir::DataDir,
    log::disk::{Change, Meta},
    start::{Parts, founders},
    state::{MEMBERSHIP, log_id},
    types::{LocalVote, Membership, StoredMembership},
};

/// The log that a founded member has behind it, as far as anybody can tell: one entry, long dropped.
const FOUNDED: u64 = 1;

/// A data directory that is being made. What there is of it goes when this is dropped unfinished.
pub struct Founding {
    config: Config,
    /// Taken when finished.
    parts: Option<Parts>,
}

impl Founding {
    /// Makes the data directory of `config`, which must be missing, empty, or left unfinished by another founding.
    ///
    /// # Errors
    /// [`Error::Directory`], [`Error::InUse`], [`Error::Storage`], [`Error::Config`].
    pub fn begin(config: Config) -> Result<Founding, Error> {
        config.validate()?;
        let Data::Dir(path) = &config.data else {
            return Err(Error::Config("only a directory can be founded".to_owned()));
        };
        let dir = DataDir::found(path)?;
        match Parts::on_disk(dir, &config) {
            Ok(parts) => Ok(Founding { config, parts: Some(parts) }),
            Err(error) => {
                // The lock is gone with the parts; what was made is still marked as unfinished.
                drop(DataDir::found(path).map(DataDir::discard));
                Err(error)
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn of(config: Config, parts: Parts) -> Founding {
        Founding { config, parts: Some(parts) }
    }

    /// Where the directory lies.
    pub fn path(&self) -> PathBuf {
        self.parts.as_ref().map(Parts::path).unwrap_or_default()
    }

    /// Takes the state in. Up to `compacted` (0: none) only what is visible there needs to come.
    ///
    /// # Errors
    /// As [`Importer::new`].
    pub fn importer(&self, compacted: i64) -> Result<Importer, Error> {
        let parts = self.parts.as_ref().ok_or(Error::Stopped)?;
        Ok(Importer::new(Arc::clone(&parts.backend), compacted)?)
    }

    /// Completes state and log: a group of the configuration's founders, or of this member alone. Each founder's directory
    /// is made from the same state and with the same founders. All of it is on stable storage when this
    /// returns, and [`Node::open`](crate::Node::open) with the same configuration takes it.
    ///
    /// # Errors
    /// As [`Importer::finish`]; [`Error::Storage`]. The directory is gone then.
    pub fn finish(mut self, importer: Importer, revision: i64, compacted: i64) -> Result<(), Error> {
        let parts = self.parts.as_ref().ok_or(Error::Stopped)?;
        let peers = founders(&self.config);
        // Whoever it is, it must be the same one in every founder's log.
        let (node, term) = (peers.keys().next().copied().unwrap_or(self.config.node_id), 1);
        let applied = Applied { term, node, index: FOUNDED };
        let id = log_id(applied);
        let membership = Membership::new(vec![peers.keys().copied().collect()], peers);
        let membership = StoredMembership::new(Some(id), membership.map_err(|e| Error::Storage(e.to_string()))?);
        let membership = Bytes::from(codec::encode_stored_membership(&membership));
        importer.finish(revision, compacted, applied, &[(MEMBERSHIP, membership)])?;
        let identity = Identity { cluster: self.config.cluster_id, node: self.config.node_id };
        let records = [
            (Meta::Identity, codec::encode_identity(identity)),
            (Meta::Vote, codec::encode_vote(&LocalVote::new(term, node))),
            (Meta::Purged, codec::encode_log_id(&id)),
        ];
        let records = records.map(|(name, record)| Change::Meta { name, record });
        parts.disk.write(&records, true).map_err(|e| Error::Storage(e.to_string()))?;
        let Some(Parts { disk, backend, staging, dir, .. }) = self.parts.take() else { return Ok(()) };
        drop((disk, backend, staging));
        dir.map_or(Ok(()), DataDir::founded)
    }
}

impl Drop for Founding {
    fn drop(&mut self) {
        if let Some(Parts { disk, backend, dir, .. }) = self.parts.take() {
            // Both keep files open.
            drop((disk, backend));
            if let Some(dir) = dir {
                dir.discard();
            }
        }
    }
}
