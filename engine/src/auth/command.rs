//! Changes of users and roles, and who asks for a change of anything.

use std::sync::Arc;

use bytes::Bytes;

use super::{Auth, Permission};
use crate::command::{Command, KeyRange};

/// A change of the auth state. Names are compared byte by byte; an empty one is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthCommand {
    Enable,
    Disable,
    /// Makes `prefix.INDEX` a token of the user, where INDEX is the command's place in the log. Refused where auth has
    /// changed since `revision`, at which the password was found right.
    Authenticate {
        user: String,
        prefix: String,
        revision: u64,
    },
    /// `hash` is the password's bcrypt hash, and empty for a user without a password.
    UserAdd {
        name: String,
        hash: Bytes,
        no_password: bool,
    },
    UserDelete {
        name: String,
    },
    /// Ends the user's tokens too.
    UserSetPassword {
        name: String,
        hash: Bytes,
    },
    UserGrantRole {
        user: String,
        role: String,
    },
    UserRevokeRole {
        user: String,
        role: String,
    },
    RoleAdd {
        name: String,
    },
    /// Takes the role from all users too.
    RoleDelete {
        name: String,
    },
    RoleGrant {
        role: String,
        permission: Permission,
    },
    /// Takes away what was granted with exactly this range.
    RoleRevoke {
        role: String,
        range: KeyRange,
    },
}

/// Who asks for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client that has not said who it is.
    Nobody,
    /// This system itself, which may do everything: a lease that has run out, the gateway in the same process.
    System,
    /// A user, known at `revision` of the auth state.
    User { name: Arc<str>, revision: u64 },
}

/// A command with who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub by: Asker,
    /// Not one that is wrapped itself.
    pub command: Command,
}

impl Command {
    /// The command with who asks for it, where that matters at present: without auth it stays as it is.
    pub fn by(self, auth: &Auth, asker: &Asker) -> Command {
        match asker {
            // Nobody is who asks where nothing is said.
            Asker::Nobody => self,
            _ if !auth.enabled() || matches!(self, Command::Asked(_)) => self,
            by => Command::Asked(Box::new(Asked { by: by.clone(), command: self })),
        }
    }

    /// Who asks, and for what.
    pub fn asked(&self) -> (&Asker, &Command) {
        match self {
            Command::Asked(asked) => (&asked.by, &asked.command),
            plain => (&Asker::Nobody, plain),
        }
    }

    /// The command without who asks for it.
    pub fn plain(&self) -> &Command {
        self.asked().1
    }
}
