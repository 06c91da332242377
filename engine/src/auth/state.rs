//! All users and roles at one auth revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::permission::{Permission, Ranges};
use super::{Asker, ROOT, Refusal};
use crate::command::KeyRange;

/// Who may do what. A copy shares the users and roles with its original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub(super) enabled: bool,
    pub(super) revision: u64,
    pub(super) users: BTreeMap<Arc<str>, Arc<User>>,
    pub(super) roles: BTreeMap<Arc<str>, Arc<Role>>,
}

impl Default for Auth {
    /// The state of a new store: auth is off, and the revision 1, as in etcd.
    fn default() -> Auth {
        Auth { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// A user. What it may read and write is worked out when it or one of its roles changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// bcrypt hash of the password.
    pub hash: Bytes,
    /// There is no password: only a certificate makes one this user.
    pub no_password: bool,
    /// Sorted.
    pub roles: Vec<Arc<str>>,
    pub(super) read: Ranges,
    pub(super) write: Ranges,
}

impl User {
    /// Whether the user may do everything.
    pub fn is_root(&self) -> bool {
        self.roles.binary_search_by(|role| (**role).cmp(ROOT)).is_ok()
    }
}

/// A named set of permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Sorted by the start of their ranges.
    pub permissions: Vec<Permission>,
}

impl Auth {
    /// A state from its parts, for a store that is founded from another's.
    pub fn from_parts(
        enabled: bool,
        revision: u64,
        users: impl IntoIterator<Item = (Arc<str>, User)>,
        roles: impl IntoIterator<Item = (Arc<str>, Role)>,
    ) -> Auth {
        let roles = roles.into_iter().map(|(name, role)| (name, Arc::new(role))).collect();
        let mut auth = Auth { enabled, revision, users: BTreeMap::new(), roles };
        for (name, mut user) in users {
            user.roles.sort_unstable();
            let user = auth.merged(user);
            auth.users.insert(name, Arc::new(user));
        }
        auth
    }

    /// Whether requests are checked at all.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// In the order of their names.
    pub fn users(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &User)> {
        self.users.iter().map(|(name, user)| (name, &**user))
    }

    /// In the order of their names.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Role)> {
        self.roles.iter().map(|(name, role)| (name, &**role))
    }

    /// Whether every key of the range may be read.
    ///
    /// # Errors
    /// [`Refusal::UserEmpty`], [`Refusal::OldRevision`], [`Refusal::PermissionDenied`].
    pub fn check_read(&self, asker: &Asker, range: &KeyRange) -> Result<(), Refusal> {
        self.check(asker, |user| user.read.contains(range))
    }

    /// Whether every key of the range may be written.
    ///
    /// # Errors
    /// As [`Auth::check_read`].
    pub fn check_write(&self, asker: &Asker, range: &KeyRange) -> Result<(), Refusal> {
        self.check(asker, |user| user.write.contains(range))
    }

    fn check(&self, asker: &Asker, may: impl Fn(&User) -> bool) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        match asker {
            Asker::System => Ok(()),
            Asker::Nobody | Asker::User { revision: 0, .. } => Err(Refusal::UserEmpty),
            Asker::User { revision, .. } if *revision < self.revision => Err(Refusal::OldRevision),
            Asker::User { name, .. } => match self.user(name) {
                Some(user) if user.is_root() || may(user) => Ok(()),
                _ => Err(Refusal::PermissionDenied),
            },
        }
    }

    /// Whether everything is allowed. As in etcd the age of what is known of the asker does not matter here.
    ///
    /// # Errors
    /// [`Refusal::UserEmpty`], [`Refusal::UserNotFound`], [`Refusal::PermissionDenied`].
    pub fn check_admin(&self, asker: &Asker) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        match asker {
            Asker::System => Ok(()),
            Asker::User { name, .. } if !name.is_empty() => match self.user(name) {
                None => Err(Refusal::UserNotFound),
                Some(user) if user.is_root() => Ok(()),
                Some(_) => Err(Refusal::PermissionDenied),
            },
            Asker::Nobody | Asker::User { .. } => Err(Refusal::UserEmpty),
        }
    }

    /// The user with what its roles permit.
    pub(super) fn merged(&self, mut user: User) -> User {
        let granted = || user.roles.iter().filter_map(|role| self.role(role)).flat_map(|role| &role.permissions);
        let read = Ranges::merged(granted().filter(|permission| permission.reads()));
        let write = Ranges::merged(granted().filter(|permission| permission.writes()));
        (user.read, user.write) = (read, write);
        user
    }
}
