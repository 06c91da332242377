//! Founds a data directory from etcd's backend file, its own or ours.

use std::sync::Arc;

use bytes::Bytes;
use kelson_bolt::Db;
use kelson_bolt::schema::{self, At, KeyValue, Parts};
use kelson_engine::auth::{Auth, Permission, Role, User};
use kelson_engine::{Alarm, AlarmKind, Error as EngineError, Importer, KeyRange, LeaseTime, Revision, Write};
use kelson_raft::{Error as RaftError, Founding};

use crate::Error;

/// The newest minor release of etcd 3 whose storage is known.
const NEWEST_MINOR: u32 = 7;

/// What a restore has brought in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Revision that the store is at.
    pub revision: i64,
    /// The oldest revision that can be read; 0 for all.
    pub compacted: i64,
    /// Writes of the history that is kept.
    pub writes: u64,
    pub leases: u64,
    pub users: u64,
    pub roles: u64,
    pub alarms: u64,
}

/// Founds the directory with the content of `db`: the same keys, revisions, history since the last compaction, leases,
/// alarms, users and roles. Who the members are comes from `founding`.
///
/// With `bump` above 0 the store begins so many revisions later and with everything before compacted, so that a client
/// that has seen more than is in the snapshot never meets a revision twice. `progress` hears the bytes of keys and
/// values taken in so far.
///
/// # Errors
/// [`Error::Snapshot`] for a file that is damaged or not etcd's; [`Error::Node`] for a history that cannot be, which
/// names the record, and for a directory that cannot be written. It is left as it was.
pub fn restore(db: &Db, founding: Founding, bump: u64, mut progress: impl FnMut(u64)) -> Result<Restored, Error> {
    let parts = schema::parts(db)?;
    check_version(&parts.storage_version)?;
    let compacted = parts.compacted();
    let mut importer = founding.importer(compacted)?;
    let mut restored = Restored { compacted, ..Restored::default() };
    let mut newest = 1;
    let mut bytes = 0;
    schema::writes::<Error>(db, |at, kv| {
        newest = at.main;
        // What an etcd's own restore leaves in the place of a revision that was skipped.
        if kv.key.is_empty() && at.main <= compacted {
            return Ok(());
        }
        importer.write(&write(at, &kv)?).map_err(RaftError::from)?;
        restored.writes += 1;
        bytes += (kv.key.len() + kv.value.len()) as u64;
        if restored.writes.is_multiple_of(1024) {
            progress(bytes);
        }
        Ok(())
    })?;
    schema::leases::<Error>(db, |lease| {
        restored.leases += 1;
        let schema::Lease { id, ttl, remaining } = lease;
        Ok(importer.lease(LeaseTime { id, ttl, remaining }).map_err(RaftError::from)?)
    })?;
    (restored.users, restored.roles) = (parts.users.len() as u64, parts.roles.len() as u64);
    restored.alarms = parts.alarms.len() as u64;
    others(&mut importer, &parts)?;
    restored.revision = newest.max(compacted);
    if bump > 0 {
        let bumped = i64::try_from(bump).ok().and_then(|bump| restored.revision.checked_add(bump));
        restored.revision = bumped.ok_or_else(|| wrong(format!("revision {} and {bump} more is too large", newest)))?;
        restored.compacted = restored.revision;
    }
    founding.finish(importer, restored.revision, restored.compacted)?;
    Ok(restored)
}

fn wrong(text: String) -> Error {
    Error::Node(RaftError::Engine(EngineError::Import(text)))
}

fn check_version(version: &str) -> Result<(), Error> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(3), Some(minor)) if minor <= NEWEST_MINOR => Ok(()),
        // Before etcd 3.6 none was stored.
        _ if version.is_empty() => Ok(()),
        _ => Err(wrong(format!("the snapshot's storage version is {version}; known are those up to 3.{NEWEST_MINOR}"))),
    }
}

fn write<'a>(at: At, kv: &KeyValue<'a>) -> Result<Write<'a>, Error> {
    let At { main, sub, tombstone } = at;
    let sub =
        u32::try_from(sub).map_err(|_| wrong(format!("revision {main}, write {sub}: no transaction has so many")))?;
    if !tombstone && kv.mod_revision != main {
        return Err(wrong(format!("revision {main}, write {sub}: it says that it is of revision {}", kv.mod_revision)));
    }
    Ok(Write {
        at: Revision { main, sub },
        tombstone,
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: kv.lease,
    })
}

fn others(importer: &mut Importer, parts: &Parts) -> Result<(), Error> {
    for &schema::Alarm { member, kind } in &parts.alarms {
        let kind = match kind {
            1 => AlarmKind::NoSpace,
            2 => AlarmKind::Corrupt,
            other => return Err(wrong(format!("alarm {other} of member {member:x} is unknown"))),
        };
        importer.alarm(Alarm { kind, member });
    }
    let users = parts.users.iter().map(|user| {
        let mut found = User::default();
        found.hash = Bytes::copy_from_slice(&user.password);
        found.no_password = user.no_password;
        found.roles = user.roles.iter().map(|role| Arc::from(role.as_str())).collect();
        (Arc::from(user.name.as_str()), found)
    });
    let permission = |permission: &schema::Permission| Permission {
        kind: permission.kind as i32,
        range: KeyRange {
            start: Bytes::copy_from_slice(&permission.key),
            end: Bytes::copy_from_slice(&permission.range_end),
        },
    };
    let roles = parts.roles.iter().map(|role| {
        let permissions = role.permissions.iter().map(permission).collect();
        (Arc::from(role.name.as_str()), Role { permissions })
    });
    // An etcd without any auth yet has written no revision.
    importer.auth(&Auth::from_parts(parts.auth_enabled, parts.auth_revision.max(1), users, roles));
    Ok(())
}
