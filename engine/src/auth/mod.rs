//! Users, roles and what they may do: the part of etcd's auth that is decided in log order.
//!
//! The state ([`Auth`]) is published whole with every change and never changes itself, so that a request is checked
//! without a lock. While auth is off nothing here costs more than one look at a flag. While it is on, a command comes
//! wrapped with who asks ([`Asked`]) and is checked when it is applied: what counts is the state at its place in the
//! log, not that at the time of the request.
//!
//! Passwords come as hashes and tokens as random text, both made before the proposal.

mod change;
mod check;
mod codec;
mod command;
mod listen;
mod permission;
mod refusal;
mod state;
mod stored;
mod token;

pub use command::{Asked, Asker, AuthCommand};
pub use listen::AuthListener;
pub use permission::Permission;
pub use refusal::Refusal;
pub use state::{Auth, Role, User};

pub(crate) use change::Changed;
pub(crate) use listen::Listeners;
pub(crate) use stored::{load, records, store, store_all};
pub(crate) use token::Tokens;

/// The user without whom auth cannot be turned on, and the role that may do everything.
pub const ROOT: &str = "root";
