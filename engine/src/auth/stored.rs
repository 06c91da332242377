//! Users and roles in the backend: one record each, under their names, beside the other blobs of the store.
//!
//! `docs/storage.md` gives the layout.

use std::sync::Arc;

use bytes::Bytes;

use super::Changed;
use super::codec::{decode_permission, encode_permission};
use super::state::{Auth, Role, User};
use crate::Error;
use crate::backend::{Batch, Space, View};
use crate::codec::{Input, blob, flags, unsigned};

const STATE: &[u8] = b"auth/state";
const USERS: &[u8] = b"auth/user/";
const ROLES: &[u8] = b"auth/role/";

/// Puts what a change has changed into the batch.
pub(crate) fn store(auth: &Auth, changed: &Changed, batch: &mut Batch) {
    for name in &changed.users {
        put(batch, USERS, name, auth.user(name).map(encode_user));
    }
    for name in &changed.roles {
        put(batch, ROLES, name, auth.role(name).map(encode_role));
    }
    let mut state = vec![flags([auth.enabled])];
    unsigned(&mut state, auth.revision);
    batch.put(Space::Meta, STATE, state.into());
}

/// Puts all of it into the batch.
pub(crate) fn store_all(auth: &Auth, batch: &mut Batch) {
    let users = auth.users().map(|(name, _)| Arc::clone(name)).collect();
    let roles = auth.roles().map(|(name, _)| Arc::clone(name)).collect();
    store(auth, &Changed { users, roles, any: true }, batch);
}

fn put(batch: &mut Batch, prefix: &[u8], name: &str, record: Option<Vec<u8>>) {
    let key = [prefix, name.as_bytes()].concat();
    match record {
        Some(record) => batch.put(Space::Meta, &key, record.into()),
        None => batch.delete(Space::Meta, &key),
    }
}

/// Every user and role with its name, in order: for hashing.
pub(crate) fn records(auth: &Auth) -> impl Iterator<Item = Vec<u8>> {
    let users = auth.users().map(|(name, user)| [USERS, name.as_bytes(), &encode_user(user)].concat());
    users.chain(auth.roles().map(|(name, role)| [ROLES, name.as_bytes(), &encode_role(role)].concat()))
}

/// The state as it was last stored; that of a new store where there is none.
pub(crate) fn load<V: View + ?Sized>(backend: &V) -> Result<Auth, Error> {
    let Some(state) = backend.get(Space::Meta, STATE)? else { return Ok(Auth::default()) };
    let damaged = |what: &str| Error::Storage(format!("the store is damaged: unreadable {what}"));
    let (enabled, revision) = decode(&state, |input| {
        let [enabled] = input.flags()?;
        Ok((enabled, input.unsigned()?))
    })
    .map_err(|_| damaged("state of auth"))?;
    let roles = named(backend, ROLES, decode_role).map_err(|error| error.unwrap_or_else(|| damaged("role")))?;
    let users = named(backend, USERS, decode_user).map_err(|error| error.unwrap_or_else(|| damaged("user")))?;
    Ok(Auth::from_parts(enabled, revision, users, roles))
}

/// All records under a prefix; the error is `None` where one does not read back.
fn named<T, V: View + ?Sized>(
    backend: &V,
    prefix: &[u8],
    of: impl Fn(&mut Input) -> Result<T, Error>,
) -> Result<Vec<(Arc<str>, T)>, Option<Error>> {
    // The prefixes end in a slash, so that what comes behind them ends in the character after it.
    let end = [&prefix[..prefix.len() - 1], b"0"].concat();
    let mut found = Vec::new();
    let mut unreadable = false;
    let scanned = backend.scan(Space::Meta, prefix, Some(&end), &mut |key, record| {
        let name = key.get(prefix.len()..).and_then(|name| std::str::from_utf8(name).ok());
        match (name, decode(&Bytes::copy_from_slice(record), &of)) {
            (Some(name), Ok(value)) => found.push((Arc::from(name), value)),
            _ => unreadable = true,
        }
        Ok(!unreadable)
    });
    scanned.map_err(Some)?;
    if unreadable { Err(None) } else { Ok(found) }
}

fn decode<T>(record: &Bytes, of: impl Fn(&mut Input) -> Result<T, Error>) -> Result<T, Error> {
    let mut input = Input::new(record);
    let value = of(&mut input)?;
    input.end().map(|()| value)
}

fn encode_user(user: &User) -> Vec<u8> {
    let mut out = vec![flags([user.no_password])];
    blob(&mut out, &user.hash);
    unsigned(&mut out, user.roles.len() as u64);
    for role in &user.roles {
        blob(&mut out, role.as_bytes());
    }
    out
}

fn decode_user(input: &mut Input) -> Result<User, Error> {
    let [no_password] = input.flags()?;
    let hash = input.blob()?;
    let roles = (0..input.count()?).map(|_| input.text().map(Arc::from)).collect::<Result<_, _>>()?;
    Ok(User { hash, no_password, roles, ..User::default() })
}

fn encode_role(role: &Role) -> Vec<u8> {
    let mut out = Vec::new();
    unsigned(&mut out, role.permissions.len() as u64);
    for permission in &role.permissions {
        encode_permission(&mut out, permission);
    }
    out
}

fn decode_role(input: &mut Input) -> Result<Role, Error> {
    let permissions = (0..input.count()?).map(|_| decode_permission(input)).collect::<Result<_, _>>()?;
    Ok(Role { permissions })
}
