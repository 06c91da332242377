//! etcd's auth: who asks, and whether they may.

mod caller;
mod options;

pub(crate) use caller::Caller;
pub use options::AuthOptions;
