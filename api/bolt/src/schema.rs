//! What etcd keeps in its backend file (`server/storage/schema` there): which buckets, which keys, which encodings.

mod load;
mod save;

pub(crate) use load::wrong;
pub use load::{leases, parts, writes};
pub use save::Saver;

use crate::proto::{Fields, Message};

/// Names of the buckets, in the order that they lie in the file.
pub mod bucket {
    pub const ALARM: &str = "alarm";
    pub const AUTH: &str = "auth";
    pub const AUTH_ROLES: &str = "authRoles";
    pub const AUTH_USERS: &str = "authUsers";
    pub const CLUSTER: &str = "cluster";
    pub const KEY: &str = "key";
    pub const LEASE: &str = "lease";
    pub const MEMBERS: &str = "members";
    pub const MEMBERS_REMOVED: &str = "members_removed";
    pub const META: &str = "meta";
}

pub(crate) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(crate) const AUTH_REVISION: &[u8] = b"authRevision";
pub(crate) const CLUSTER_VERSION: &[u8] = b"clusterVersion";
pub(crate) const CONF_STATE: &[u8] = b"confState";
pub(crate) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(crate) const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
pub(crate) const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
pub(crate) const STORAGE_VERSION: &[u8] = b"storageVersion";
pub(crate) const TERM: &[u8] = b"term";

/// Key of a write in the bucket `key`: its revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Revision of the transaction.
    pub main: i64,
    /// Index of the write in it.
    pub sub: i64,
    /// Whether the write deleted its key.
    pub tombstone: bool,
}

const SEPARATOR: u8 = b'_';
const MARK: u8 = b't';
const PLAIN_BYTES: usize = 17;

impl At {
    /// Seventeen bytes, or eighteen for a tombstone.
    pub fn encode(&self) -> ([u8; PLAIN_BYTES + 1], usize) {
        let mut out = [MARK; PLAIN_BYTES + 1];
        out[..8].copy_from_slice(&self.main.to_be_bytes());
        out[8] = SEPARATOR;
        out[9..PLAIN_BYTES].copy_from_slice(&self.sub.to_be_bytes());
        (out, PLAIN_BYTES + usize::from(self.tombstone))
    }

    /// # Errors
    /// Says what is wrong with `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<At, &'static str> {
        let (plain, mark) = bytes.split_first_chunk::<PLAIN_BYTES>().ok_or("the revision is cut short")?;
        let (main, rest) = plain.split_first_chunk::<8>().ok_or("the revision is cut short")?;
        let (sub, rest) = rest.split_last_chunk::<8>().map(|(rest, sub)| (sub, rest)).ok_or("cut short")?;
        let tombstone = match mark {
            [] => false,
            [MARK] => true,
            _ => return Err("the revision has an unknown mark"),
        };
        let at = At { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub), tombstone };
        match rest == [SEPARATOR] && at.main >= 0 && at.sub >= 0 {
            true => Ok(at),
            false => Err("the revision is malformed"),
        }
    }
}

/// A write, as `mvccpb.KeyValue` has it. A tombstone has its key only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    /// 0 for none.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Appends the encoding, byte for byte as etcd stores it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut message = Message(out);
        message.bytes(1, self.key);
        message.number(2, self.create_revision as u64);
        message.number(3, self.mod_revision as u64);
        message.number(4, self.version as u64);
        message.bytes(5, self.value);
        message.number(6, self.lease as u64);
    }

    /// # Errors
    /// Says what is wrong with `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<KeyValue<'a>, &'static str> {
        let mut found = KeyValue::default();
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => found.key = value.bytes()?,
                2 => found.create_revision = value.number()? as i64,
                3 => found.mod_revision = value.number()? as i64,
                4 => found.version = value.number()? as i64,
                5 => found.value = value.bytes()?,
                6 => found.lease = value.number()? as i64,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// A lease, as `leasepb.Lease` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub id: i64,
    /// Seconds granted.
    pub ttl: i64,
    /// Seconds left at the last checkpoint, 0 without one.
    pub remaining: i64,
}

impl Lease {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut message = Message(&mut out);
        message.number(1, self.id as u64);
        message.number(2, self.ttl as u64);
        message.number(3, self.remaining as u64);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Lease, &'static str> {
        let mut found = Lease::default();
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => found.id = value.number()? as i64,
                2 => found.ttl = value.number()? as i64,
                3 => found.remaining = value.number()? as i64,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// A raised alarm, as `etcdserverpb.AlarmMember` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub member: u64,
    /// 1: no space. 2: corrupt.
    pub kind: u64,
}

impl Alarm {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut message = Message(&mut out);
        message.number(1, self.member);
        message.number(2, self.kind);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Alarm, &'static str> {
        let mut found = Alarm::default();
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => found.member = value.number()?,
                2 => found.kind = value.number()?,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// A user, as `authpb.User` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// The bcrypt hash in its usual text form; empty for none.
    pub password: Vec<u8>,
    /// In ascending order.
    pub roles: Vec<String>,
    /// May only come in by a client certificate.
    pub no_password: bool,
}

impl User {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut options = Vec::new();
        Message(&mut options).number(1, u64::from(self.no_password));
        let mut out = Vec::new();
        let mut message = Message(&mut out);
        message.bytes(1, self.name.as_bytes());
        message.bytes(2, &self.password);
        self.roles.iter().for_each(|role| message.element(3, role.as_bytes()));
        message.element(4, &options);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<User, &'static str> {
        let mut found = User::default();
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => found.name = value.text()?,
                2 => found.password = value.bytes()?.to_vec(),
                3 => found.roles.push(value.text()?),
                4 => {
                    let mut options = Fields(value.bytes()?);
                    while let Some((number, value)) = options.next()? {
                        if number == 1 {
                            found.no_password = value.number()? != 0;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// A role, as `authpb.Role` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub permissions: Vec<Permission>,
}

/// What a role allows on a range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permission {
    /// 0: read. 1: write. 2: both.
    pub kind: u64,
    pub key: Vec<u8>,
    /// As in a range request.
    pub range_end: Vec<u8>,
}

impl Role {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Message(&mut out).bytes(1, self.name.as_bytes());
        for permission in &self.permissions {
            let mut inner = Vec::new();
            let mut message = Message(&mut inner);
            message.number(1, permission.kind);
            message.bytes(2, &permission.key);
            message.bytes(3, &permission.range_end);
            Message(&mut out).element(2, &inner);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Role, &'static str> {
        let mut found = Role::default();
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => found.name = value.text()?,
                2 => {
                    let mut permission = Permission::default();
                    let mut inner = Fields(value.bytes()?);
                    while let Some((number, value)) = inner.next()? {
                        match number {
                            1 => permission.kind = value.number()?,
                            2 => permission.key = value.bytes()?.to_vec(),
                            3 => permission.range_end = value.bytes()?.to_vec(),
                            _ => {}
                        }
                    }
                    found.permissions.push(permission);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Everything in a file but its writes and leases; small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub alarms: Vec<Alarm>,
    pub auth_enabled: bool,
    pub auth_revision: u64,
    pub users: Vec<User>,
    pub roles: Vec<Role>,
    /// `major.minor.0`; empty for none.
    pub cluster_version: String,
    /// Members by id, each in etcd's JSON.
    pub members: Vec<(u64, String)>,
    /// Position in the raft log that the rest belongs to.
    pub consistent_index: u64,
    pub term: u64,
    /// Raft's voters and learners, in etcd's JSON; empty for none.
    pub conf_state: String,
    /// Revision that a compaction was asked for, 0 for never.
    pub scheduled_compact: i64,
    /// Revision that a compaction was completed at, 0 for never.
    pub finished_compact: i64,
    /// `major.minor.0`; empty before etcd 3.6.
    pub storage_version: String,
}

impl Parts {
    /// Oldest revision that can be read; 0 for all.
    pub fn compacted(&self) -> i64 {
        self.scheduled_compact.max(self.finished_compact)
    }
}
