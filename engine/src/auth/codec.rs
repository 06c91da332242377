//! Changes of the auth state, and who asks, as bytes for the log. The primitives are those of all commands.

use std::sync::Arc;

use super::{Asked, Asker, AuthCommand, Permission};
use crate::Error;
use crate::codec::{Input, blob, encode_range, flags, number, unsigned};

impl AuthCommand {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut named = |tag: u8, name: &str| {
            out.push(tag);
            blob(out, name.as_bytes());
        };
        match self {
            AuthCommand::Enable => out.push(1),
            AuthCommand::Disable => out.push(2),
            AuthCommand::Authenticate { user, prefix, revision } => {
                named(3, user);
                blob(out, prefix.as_bytes());
                unsigned(out, *revision);
            }
            AuthCommand::UserAdd { name, hash, no_password } => {
                named(4, name);
                blob(out, hash);
                out.push(flags([*no_password]));
            }
            AuthCommand::UserDelete { name } => named(5, name),
            AuthCommand::UserSetPassword { name, hash } => {
                named(6, name);
                blob(out, hash);
            }
            AuthCommand::UserGrantRole { user, role } => {
                named(7, user);
                blob(out, role.as_bytes());
            }
            AuthCommand::UserRevokeRole { user, role } => {
                named(8, user);
                blob(out, role.as_bytes());
            }
            AuthCommand::RoleAdd { name } => named(9, name),
            AuthCommand::RoleDelete { name } => named(10, name),
            AuthCommand::RoleGrant { role, permission } => {
                named(11, role);
                encode_permission(out, permission);
            }
            AuthCommand::RoleRevoke { role, range } => {
                named(12, role);
                encode_range(out, range);
            }
        }
    }

    pub(crate) fn decode(input: &mut Input) -> Result<AuthCommand, Error> {
        Ok(match input.byte()? {
            1 => AuthCommand::Enable,
            2 => AuthCommand::Disable,
            3 => AuthCommand::Authenticate { user: input.text()?, prefix: input.text()?, revision: input.unsigned()? },
            4 => {
                let (name, hash) = (input.text()?, input.blob()?);
                let [no_password] = input.flags()?;
                AuthCommand::UserAdd { name, hash, no_password }
            }
            5 => AuthCommand::UserDelete { name: input.text()? },
            6 => AuthCommand::UserSetPassword { name: input.text()?, hash: input.blob()? },
            7 => AuthCommand::UserGrantRole { user: input.text()?, role: input.text()? },
            8 => AuthCommand::UserRevokeRole { user: input.text()?, role: input.text()? },
            9 => AuthCommand::RoleAdd { name: input.text()? },
            10 => AuthCommand::RoleDelete { name: input.text()? },
            11 => AuthCommand::RoleGrant { role: input.text()?, permission: decode_permission(input)? },
            12 => AuthCommand::RoleRevoke { role: input.text()?, range: input.range()? },
            _ => return Err(Error::Malformed("unknown change of auth")),
        })
    }

    /// A lower bound of the encoded length.
    pub fn encoded_hint(&self) -> usize {
        1 + match self {
            AuthCommand::Enable | AuthCommand::Disable => 0,
            AuthCommand::Authenticate { user, prefix, .. } => user.len() + prefix.len(),
            AuthCommand::UserAdd { name, hash, .. } | AuthCommand::UserSetPassword { name, hash } => {
                name.len() + hash.len()
            }
            AuthCommand::UserDelete { name } | AuthCommand::RoleAdd { name } | AuthCommand::RoleDelete { name } => {
                name.len()
            }
            AuthCommand::UserGrantRole { user, role } | AuthCommand::UserRevokeRole { user, role } => {
                user.len() + role.len()
            }
            AuthCommand::RoleGrant { role, permission: Permission { range, .. } }
            | AuthCommand::RoleRevoke { role, range } => role.len() + range.start.len() + range.end.len(),
        }
    }
}

pub(super) fn encode_permission(out: &mut Vec<u8>, permission: &Permission) {
    number(out, i64::from(permission.kind));
    encode_range(out, &permission.range);
}

pub(super) fn decode_permission(input: &mut Input) -> Result<Permission, Error> {
    let kind = i32::try_from(input.number()?).map_err(|_| Error::Malformed("unknown kind of permission"))?;
    Ok(Permission { kind, range: input.range()? })
}

impl Asker {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Asker::Nobody => out.push(0),
            Asker::System => out.push(1),
            Asker::User { name, revision } => {
                out.push(2);
                blob(out, name.as_bytes());
                unsigned(out, *revision);
            }
        }
    }

    pub(crate) fn decode(input: &mut Input) -> Result<Asker, Error> {
        Ok(match input.byte()? {
            0 => Asker::Nobody,
            1 => Asker::System,
            2 => Asker::User { name: Arc::from(input.text()?), revision: input.unsigned()? },
            _ => return Err(Error::Malformed("unknown asker")),
        })
    }
}

impl Asked {
    /// A lower bound of the encoded length.
    pub(crate) fn encoded_hint(&self) -> usize {
        let name = if let Asker::User { name, .. } = &self.by { name.len() } else { 0 };
        2 + name + self.command.encoded_hint()
    }
}
