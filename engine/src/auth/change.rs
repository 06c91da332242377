//! What each change does, in etcd's order of refusals.

use std::sync::Arc;

use super::state::{Auth, Role, User};
use super::{AuthCommand, ROOT, Refusal};

/// What a change has left to be stored: users and roles by name, gone where they are not there any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub users: Vec<Arc<str>>,
    pub roles: Vec<Arc<str>>,
    /// Whether anything is different at all.
    pub any: bool,
}

impl Auth {
    /// Whether a user may have a token, whose password was found right at `revision`.
    pub(crate) fn check_authenticate(&self, user: &str, revision: u64) -> Result<(), Refusal> {
        if !self.enabled {
            return Err(Refusal::NotEnabled);
        }
        if revision != self.revision {
            return Err(Refusal::OldRevision);
        }
        match self.user(user) {
            Some(user) if !user.no_password => Ok(()),
            _ => Err(Refusal::AuthFailed),
        }
    }

    /// Makes the change, or leaves everything as it is.
    pub(crate) fn apply(&mut self, command: &AuthCommand) -> Result<Changed, Refusal> {
        let mut changed = Changed::default();
        match command {
            AuthCommand::Enable => {
                if !self.enabled {
                    let root = self.user(ROOT).ok_or(Refusal::RootUserNotExist)?;
                    if !root.is_root() {
                        return Err(Refusal::RootRoleNotExist);
                    }
                    self.enabled = true;
                    changed.any = true;
                }
                return Ok(changed);
            }
            AuthCommand::Disable => {
                if !self.enabled {
                    return Ok(changed);
                }
                self.enabled = false;
            }
            // Changes nothing; see [`Auth::check_authenticate`].
            AuthCommand::Authenticate { .. } => return Ok(changed),
            AuthCommand::UserAdd { name, hash, no_password } => {
                if name.is_empty() {
                    return Err(Refusal::UserEmpty);
                }
                if self.users.contains_key(&**name) {
                    return Err(Refusal::UserExists);
                }
                let user = User {
                    hash: if *no_password { Default::default() } else { hash.clone() },
                    no_password: *no_password,
                    ..User::default()
                };
                self.put_user(Arc::from(&**name), user, &mut changed);
            }
            AuthCommand::UserDelete { name } => {
                if self.enabled && name == ROOT {
                    return Err(Refusal::InvalidManagement);
                }
                let (name, _) = self.users.remove_entry(&**name).ok_or(Refusal::UserNotFound)?;
                changed.users.push(name);
            }
            AuthCommand::UserSetPassword { name, hash } => {
                let (name, mut user) = self.take_user(name)?;
                user.hash = if user.no_password { Default::default() } else { hash.clone() };
                self.put_user(name, user, &mut changed);
            }
            AuthCommand::UserGrantRole { user, role } => {
                let (name, mut user) = self.take_user(user)?;
                // The role root need not have been made to be granted.
                let role = match self.roles.get_key_value(&**role) {
                    Some((role, _)) => role.clone(),
                    None if role == ROOT => Arc::from(ROOT),
                    None => return Err(Refusal::RoleNotFound),
                };
                match user.roles.binary_search(&role) {
                    Ok(_) => return Ok(changed),
                    Err(place) => user.roles.insert(place, role),
                }
                self.put_user(name, user, &mut changed);
            }
            AuthCommand::UserRevokeRole { user, role } => {
                if self.enabled && user == ROOT && role == ROOT {
                    return Err(Refusal::InvalidManagement);
                }
                let (name, mut user) = self.take_user(user)?;
                let had = user.roles.len();
                user.roles.retain(|other| **other != **role);
                if user.roles.len() == had {
                    return Err(Refusal::RoleNotGranted);
                }
                self.put_user(name, user, &mut changed);
            }
            AuthCommand::RoleAdd { name } => {
                if name.is_empty() {
                    return Err(Refusal::RoleEmpty);
                }
                if self.roles.contains_key(&**name) {
                    return Err(Refusal::RoleExists);
                }
                self.put_role(Arc::from(&**name), Role::default(), &mut changed);
            }
            AuthCommand::RoleDelete { name } => {
                if self.enabled && name == ROOT {
                    return Err(Refusal::InvalidManagement);
                }
                let (role, _) = self.roles.remove_entry(&**name).ok_or(Refusal::RoleNotFound)?;
                for (name, mut user) in self.users_with(&role) {
                    user.roles.retain(|other| *other != role);
                    self.put_user(name, user, &mut changed);
                }
                changed.roles.push(role);
            }
            AuthCommand::RoleGrant { role, permission } => {
                if !permission.is_valid() {
                    return Err(Refusal::InvalidManagement);
                }
                let (name, mut role) = self.take_role(role)?;
                let held = &mut role.permissions;
                // As etcd does: only the first permission with this start is looked at, so that a second one with
                // another end may come to be there twice.
                let first = held.partition_point(|other| other.range.start < permission.range.start);
                match held.get_mut(first) {
                    Some(same) if same.range == permission.range => same.kind = permission.kind,
                    _ => {
                        let behind = held.partition_point(|other| other.range.start <= permission.range.start);
                        held.insert(behind, permission.clone());
                    }
                }
                self.put_role(name, role, &mut changed);
            }
            AuthCommand::RoleRevoke { role, range } => {
                let (name, mut role) = self.take_role(role)?;
                let had = role.permissions.len();
                role.permissions.retain(|permission| permission.range != *range);
                if role.permissions.len() == had {
                    return Err(Refusal::PermissionNotGranted);
                }
                self.put_role(name, role, &mut changed);
            }
        }
        self.revision += 1;
        changed.any = true;
        Ok(changed)
    }

    /// A copy of the user to be changed, with its name.
    fn take_user(&self, name: &str) -> Result<(Arc<str>, User), Refusal> {
        let (name, user) = self.users.get_key_value(name).ok_or(Refusal::UserNotFound)?;
        Ok((name.clone(), User::clone(user)))
    }

    fn take_role(&self, name: &str) -> Result<(Arc<str>, Role), Refusal> {
        let (name, role) = self.roles.get_key_value(name).ok_or(Refusal::RoleNotFound)?;
        Ok((name.clone(), Role::clone(role)))
    }

    fn put_user(&mut self, name: Arc<str>, user: User, changed: &mut Changed) {
        let user = self.merged(user);
        self.users.insert(name.clone(), Arc::new(user));
        changed.users.push(name);
    }

    fn put_role(&mut self, name: Arc<str>, role: Role, changed: &mut Changed) {
        self.roles.insert(name.clone(), Arc::new(role));
        for (user, concerned) in self.users_with(&name) {
            // Only what is worked out from the role is new, which is not stored.
            let concerned = self.merged(concerned);
            self.users.insert(user, Arc::new(concerned));
        }
        changed.roles.push(name);
    }

    fn users_with(&self, role: &Arc<str>) -> Vec<(Arc<str>, User)> {
        let users = self.users.iter().filter(|(_, user)| user.roles.binary_search(role).is_ok());
        users.map(|(name, user)| (name.clone(), User::clone(user))).collect()
    }
}
