//! Reads what etcd, or [`Saver`](super::Saver), has written.

use super::{
    AUTH_ENABLED, AUTH_REVISION, Alarm, At, CLUSTER_VERSION, CONF_STATE, CONSISTENT_INDEX, FINISHED_COMPACT, KeyValue,
    Lease, Parts, Role, SCHEDULED_COMPACT, STORAGE_VERSION, TERM, User, bucket,
};
use crate::{Db, Error};

/// An error that names the record.
pub(crate) fn wrong(db: &Db, bucket: &str, key: &[u8], reason: &str) -> Error {
    let key = match At::decode(key) {
        Ok(at) => format!("{}_{}", at.main, at.sub),
        Err(_) => key.escape_ascii().to_string(),
    };
    Error::Record { path: db.path().to_owned(), bucket: bucket.to_owned(), key, reason: reason.to_owned() }
}

/// Visits the records of a bucket in order; one that is not there has none.
fn each<E: From<Error>>(
    db: &Db,
    name: &str,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Visited<E>>,
) -> Result<(), E> {
    let Some(found) = db.bucket(name.as_bytes())? else { return Ok(()) };
    let mut cursor = db.cursor(&found);
    while let Some(item) = cursor.next()? {
        let visited = match item.is_bucket {
            true => Err(Visited::Wrong("there is a bucket in its place")),
            false => visit(item.key, item.value),
        };
        match visited {
            Ok(()) => {}
            Err(Visited::Wrong(reason)) => return Err(wrong(db, name, item.key, reason).into()),
            Err(Visited::Ended(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Why a visit ended.
enum Visited<E> {
    /// The record is not what it should be.
    Wrong(&'static str),
    /// The visitor wants no more.
    Ended(E),
}

impl<E> From<&'static str> for Visited<E> {
    fn from(reason: &'static str) -> Self {
        Visited::Wrong(reason)
    }
}

/// Everything but the writes and leases.
///
/// # Errors
/// [`Error::Record`] for what is not as etcd writes it; [`Error::Damaged`], [`Error::Io`].
pub fn parts(db: &Db) -> Result<Parts, Error> {
    let mut found = Parts::default();
    each::<Error>(db, bucket::ALARM, |key, _| {
        found.alarms.push(Alarm::decode(key)?);
        Ok(())
    })?;
    each::<Error>(db, bucket::AUTH, |key, value| {
        match key {
            AUTH_ENABLED => found.auth_enabled = value == [1],
            AUTH_REVISION => found.auth_revision = big_endian(value)?,
            _ => {}
        }
        Ok(())
    })?;
    each::<Error>(db, bucket::AUTH_USERS, |_, value| {
        found.users.push(User::decode(value)?);
        Ok(())
    })?;
    each::<Error>(db, bucket::AUTH_ROLES, |_, value| {
        found.roles.push(Role::decode(value)?);
        Ok(())
    })?;
    each::<Error>(db, bucket::CLUSTER, |key, value| {
        if key == CLUSTER_VERSION {
            found.cluster_version = text(value)?;
        }
        Ok(())
    })?;
    each::<Error>(db, bucket::MEMBERS, |key, value| {
        let id = str::from_utf8(key).ok().and_then(|id| u64::from_str_radix(id, 16).ok());
        found.members.push((id.ok_or("its key is no member id")?, text(value)?));
        Ok(())
    })?;
    each::<Error>(db, bucket::META, |key, value| {
        match key {
            CONF_STATE => found.conf_state = text(value)?,
            CONSISTENT_INDEX => found.consistent_index = big_endian(value)?,
            TERM => found.term = big_endian(value)?,
            FINISHED_COMPACT => found.finished_compact = At::decode(value)?.main,
            SCHEDULED_COMPACT => found.scheduled_compact = At::decode(value)?.main,
            STORAGE_VERSION => found.storage_version = text(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// Visits every write in order.
///
/// # Errors
/// As [`parts`], and what `visit` returns.
pub fn writes<E: From<Error>>(db: &Db, mut visit: impl FnMut(At, KeyValue) -> Result<(), E>) -> Result<(), E> {
    each(db, bucket::KEY, |key, value| {
        let at = At::decode(key)?;
        visit(at, KeyValue::decode(value)?).map_err(Visited::Ended)
    })
}

/// Visits every lease, in order of the ids as unsigned numbers.
///
/// # Errors
/// As [`parts`], and what `visit` returns.
pub fn leases<E: From<Error>>(db: &Db, mut visit: impl FnMut(Lease) -> Result<(), E>) -> Result<(), E> {
    each(db, bucket::LEASE, |key, value| {
        let lease = Lease::decode(value)?;
        if key != lease.id.to_be_bytes() {
            return Err(Visited::Wrong("it holds another lease than its key says"));
        }
        visit(lease).map_err(Visited::Ended)
    })
}

fn big_endian(bytes: &[u8]) -> Result<u64, &'static str> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| "a number of another length than eight bytes")
}

fn text(bytes: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8")
}
