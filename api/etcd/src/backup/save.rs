//! Writes the store's content at one moment to a file that has no name and is gone when it is closed.

use std::fs::File;
use std::path::{Path, PathBuf};

use kelson_bolt::schema::{self, At, KeyValue, Parts, Saver};
use kelson_bolt::{Error as BoltError, Writer};
use kelson_engine::auth::{Role, User};
use kelson_engine::{AlarmKind, Error as EngineError, Export, LeaseTime, Write};
use kelson_raft::{Member, Node};
use rustix::fs::fstatvfs;
use serde_json::json;

use crate::context::CLUSTER_VERSION;

/// Space that is left to the store: a snapshot that would fill the disk is given up before it stops the raft log.
const RESERVE: u64 = 64 << 20;
/// Bytes written between two looks at the free space and at whether anybody still waits.
const LOOK_EVERY: u64 = 4 << 20;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Bolt(#[from] BoltError),
    #[error("cannot write a snapshot in {}: {source}", .folder.display())]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("a snapshot does not fit in {}: {free} bytes are free, and {RESERVE} of them are left to the store", .folder.display())]
    Full { folder: PathBuf, free: u64 },
    /// Whoever asked wants no more.
    #[error("the snapshot was given up")]
    GivenUp,
}

/// Writes the content of `node` to a file in `folder`; returns it and its size. `goes_on` is asked now and then.
pub(crate) fn save(node: &Node, folder: &Path, goes_on: &dyn Fn() -> bool) -> Result<(File, u64), SaveError> {
    let failed = |source| SaveError::Folder { folder: folder.to_owned(), source };
    let file = tempfile::tempfile_in(folder).map_err(failed)?;
    let look = file.try_clone().map_err(failed)?;
    let check = || {
        let space = fstatvfs(&look).map_err(|error| failed(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        match (goes_on(), free > RESERVE) {
            (false, _) => Err(SaveError::GivenUp),
            (true, false) => Err(SaveError::Full { folder: folder.to_owned(), free }),
            (true, true) => Ok(()),
        }
    };
    check()?;
    let writer = Writer::new(file, folder.join("snapshot"))?;
    let members = node.members();
    node.reader().export(|export| {
        let mut saver = Saver::new(writer, parts(export, &members)?)?;
        let mut looked = 0;
        export.writes::<SaveError>(|write| {
            if saver.size() - looked > LOOK_EVERY {
                looked = saver.size();
                check()?;
            }
            Ok(saver.write(at(write), &key_value(write))?)
        })?;
        export.leases::<SaveError>(|LeaseTime { id, ttl, remaining }| {
            Ok(saver.lease(&schema::Lease { id, ttl, remaining })?)
        })?;
        Ok(saver.finish()?)
    })
}

fn at(write: &Write) -> At {
    At { main: write.at.main, sub: write.at.sub.into(), tombstone: write.tombstone }
}

fn key_value<'a>(write: &Write<'a>) -> KeyValue<'a> {
    if write.tombstone {
        return KeyValue { key: write.key, ..KeyValue::default() };
    }
    KeyValue {
        key: write.key,
        create_revision: write.create_revision,
        mod_revision: write.at.main,
        version: write.version,
        value: write.value,
        lease: write.lease,
    }
}

fn parts(export: &Export, members: &[Member]) -> Result<Parts, SaveError> {
    let auth = export.auth()?;
    let kind = |kind| match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    };
    let alarms = export.alarms()?;
    let applied = export.applied();
    let voters: Vec<u64> = members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect();
    Ok(Parts {
        alarms: alarms.iter().map(|alarm| schema::Alarm { member: alarm.member, kind: kind(alarm.kind) }).collect(),
        auth_enabled: auth.enabled(),
        auth_revision: auth.revision(),
        users: auth.users().map(|(name, user)| self::user(name, user)).collect(),
        roles: auth.roles().map(|(name, role)| self::role(name, role)).collect(),
        cluster_version: CLUSTER_VERSION.to_owned(),
        members: members.iter().map(|member| (member.id, member_json(member))).collect(),
        consistent_index: applied.map_or(0, |applied| applied.index),
        term: applied.map_or(0, |applied| applied.term),
        conf_state: json!({ "voters": voters, "auto_leave": false }).to_string(),
        scheduled_compact: export.compacted_revision(),
        finished_compact: export.compacted_revision(),
        storage_version: CLUSTER_VERSION.to_owned(),
    })
}

fn member_json(member: &Member) -> String {
    let mut json = json!({ "id": member.id, "peerURLs": member.peer_urls });
    if member.is_learner {
        json["isLearner"] = true.into();
    }
    if !member.name.is_empty() {
        json["name"] = member.name.as_str().into();
    }
    if !member.client_urls.is_empty() {
        json["clientURLs"] = member.client_urls.clone().into();
    }
    json.to_string()
}

fn user(name: &str, user: &User) -> schema::User {
    schema::User {
        name: name.to_owned(),
        password: user.hash.to_vec(),
        roles: user.roles.iter().map(ToString::to_string).collect(),
        no_password: user.no_password,
    }
}

fn role(name: &str, role: &Role) -> schema::Role {
    let permission = |permission: &kelson_engine::auth::Permission| schema::Permission {
        // Sign-extended, as protobuf writes an enumeration.
        kind: i64::from(permission.kind) as u64,
        key: permission.range.start.to_vec(),
        range_end: permission.range.end.to_vec(),
    };
    schema::Role { name: name.to_owned(), permissions: role.permissions.iter().map(permission).collect() }
}
