//! Writes a file as etcd would have.

use std::fs::File;

use super::{
    AUTH_ENABLED, AUTH_REVISION, At, CLUSTER_VERSION, CONF_STATE, CONSISTENT_INDEX, FINISHED_COMPACT, KeyValue, Lease,
    Parts, SCHEDULED_COMPACT, STORAGE_VERSION, TERM, bucket,
};
use crate::{Error, Writer};

/// A file of etcd's under construction: first the writes in order, then the leases in order of their ids as unsigned
/// numbers.
pub struct Saver {
    writer: Writer,
    parts: Parts,
    record: Vec<u8>,
    leases: bool,
}

impl Saver {
    /// Begins the file with what is small.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn new(mut writer: Writer, parts: Parts) -> Result<Saver, Error> {
        let mut alarms = parts.alarms.clone();
        alarms.sort_unstable();
        let alarms = alarms.iter().map(|alarm| (alarm.encode(), Vec::new()));
        whole(&mut writer, bucket::ALARM, alarms)?;
        let enabled = (AUTH_ENABLED.to_vec(), vec![u8::from(parts.auth_enabled)]);
        let revision = (AUTH_REVISION.to_vec(), parts.auth_revision.to_be_bytes().to_vec());
        whole(&mut writer, bucket::AUTH, [enabled, revision])?;
        let roles = parts.roles.iter().map(|role| (role.name.as_bytes().to_vec(), role.encode()));
        whole(&mut writer, bucket::AUTH_ROLES, roles)?;
        let users = parts.users.iter().map(|user| (user.name.as_bytes().to_vec(), user.encode()));
        whole(&mut writer, bucket::AUTH_USERS, users)?;
        let version = (CLUSTER_VERSION.to_vec(), parts.cluster_version.as_bytes().to_vec());
        whole(&mut writer, bucket::CLUSTER, (!parts.cluster_version.is_empty()).then_some(version))?;
        writer.begin_bucket(bucket::KEY.as_bytes())?;
        Ok(Saver { writer, parts, record: Vec::new(), leases: false })
    }

    /// Adds a write, which must come after the last one. Not possible once a lease was added.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn write(&mut self, at: At, kv: &KeyValue) -> Result<(), Error> {
        self.record.clear();
        kv.encode(&mut self.record);
        let (key, length) = at.encode();
        self.writer.put(&key[..length], &self.record)
    }

    /// Adds a lease.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn lease(&mut self, lease: &Lease) -> Result<(), Error> {
        self.end_writes()?;
        self.writer.put(&lease.id.to_be_bytes(), &lease.encode())
    }

    fn end_writes(&mut self) -> Result<(), Error> {
        if !self.leases {
            self.leases = true;
            self.writer.end_bucket()?;
            self.writer.begin_bucket(bucket::LEASE.as_bytes())?;
        }
        Ok(())
    }

    /// Bytes of the file so far.
    pub fn size(&self) -> u64 {
        self.writer.size()
    }

    /// Completes the file; returns it and its size in bytes.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    pub fn finish(mut self) -> Result<(File, u64), Error> {
        self.end_writes()?;
        self.writer.end_bucket()?;
        let Parts { members, conf_state, storage_version, .. } = &self.parts;
        // Ids are written in hexadecimal without leading zeros.
        let mut members: Vec<_> =
            members.iter().map(|(id, json)| (format!("{id:x}").into_bytes(), json.as_bytes().to_vec())).collect();
        members.sort_unstable();
        whole(&mut self.writer, bucket::MEMBERS, members)?;
        whole(&mut self.writer, bucket::MEMBERS_REMOVED, [])?;
        let text = |text: &String| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        let number = |number: u64| (number != 0).then(|| number.to_be_bytes().to_vec());
        let revision = |main: i64| {
            let (key, length) = At { main, ..At::default() }.encode();
            (main > 0).then(|| key[..length].to_vec())
        };
        let meta = [
            (CONF_STATE, text(conf_state)),
            (CONSISTENT_INDEX, number(self.parts.consistent_index)),
            (FINISHED_COMPACT, revision(self.parts.finished_compact)),
            (SCHEDULED_COMPACT, revision(self.parts.scheduled_compact)),
            (STORAGE_VERSION, text(storage_version)),
            (TERM, number(self.parts.term)),
        ];
        let meta = meta.into_iter().filter_map(|(key, value)| Some((key.to_vec(), value?)));
        whole(&mut self.writer, bucket::META, meta)?;
        self.writer.finish()
    }
}

/// Writes a bucket of a few records.
fn whole(writer: &mut Writer, name: &str, records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), Error> {
    writer.begin_bucket(name.as_bytes())?;
    for (key, value) in records {
        writer.put(&key, &value)?;
    }
    writer.end_bucket()
}
