//! etcd's auth: who asks, and whether they may.
//!
//! The engine holds users and roles and checks every change at its place in the log. Here is what happens before: who
//! a request is from ([`Caller`]), passwords, tokens, and the checks of what needs no place in the log.

mod caller;
mod guard;
mod jwt;
mod keys;
mod options;
mod password;
mod service;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use caller::Caller;
pub(crate) use guard::{Guard, Holder, Permit};
pub use options::AuthOptions;
pub(crate) use service::AuthService;
pub use token::TokenKind;
