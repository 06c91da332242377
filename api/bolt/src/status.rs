//! A snapshot in five figures, the same as `etcdutl snapshot status` gives.

use std::collections::HashSet;

use crate::schema::{self, At, KeyValue, bucket};
use crate::{Db, Error, Marks};

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over the names of all buckets and their records.
    pub hash: u32,
    /// Revision of the newest write that is in it.
    pub revision: i64,
    /// Keys that exist at that revision.
    pub total_keys: u64,
    /// Bytes of the database in it.
    pub total_size: u64,
    /// Version of the storage; empty before etcd 3.6.
    pub version: String,
}

impl Db {
    /// Reads all of the file and checks that every page is used once or free. Keeps the names of the keys in memory.
    /// `progress` hears, now and then, how many bytes of records were read.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Record`], [`Error::Io`].
    pub fn status(&self, mut progress: impl FnMut(u64)) -> Result<Status, Error> {
        let marks = Marks::new(self);
        let mut hash = 0;
        let mut status = Status { total_size: self.size(), ..Status::default() };
        let mut keys: HashSet<Box<[u8]>> = HashSet::new();
        let (mut read, mut told) = (0_u64, 0_u64);
        let root = self.root();
        let mut buckets = self.cursor_marking(&root, &marks);
        while let Some(item) = buckets.next()? {
            let name = item.key.escape_ascii().to_string();
            let nested = item.bucket()?.ok_or_else(|| schema::wrong(self, "", item.key, "it lies in no bucket"))?;
            hash = crc32c::crc32c_append(hash, item.key);
            let is_key = item.key == bucket::KEY.as_bytes();
            let mut records = self.cursor_marking(&nested, &marks);
            while let Some(record) = records.next()? {
                if record.is_bucket {
                    return Err(schema::wrong(self, &name, record.key, "there is a bucket in its place"));
                }
                hash = crc32c::crc32c_append(hash, record.key);
                hash = crc32c::crc32c_append(hash, record.value);
                if is_key {
                    let wrong = |reason| schema::wrong(self, &name, record.key, reason);
                    let at = At::decode(record.key).map_err(wrong)?;
                    let kv = KeyValue::decode(record.value).map_err(wrong)?;
                    status.revision = at.main;
                    match at.tombstone {
                        true => drop(keys.remove(kv.key)),
                        false if keys.contains(kv.key) => {}
                        false => drop(keys.insert(kv.key.into())),
                    }
                }
                read += (record.key.len() + record.value.len()) as u64;
                if read - told > 1 << 20 {
                    told = read;
                    progress(read);
                }
            }
        }
        marks.finish(self)?;
        status.hash = hash;
        status.total_keys = keys.len() as u64;
        status.version = schema::parts(self)?.storage_version;
        Ok(status)
    }
}
