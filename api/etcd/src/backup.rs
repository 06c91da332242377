//! Moving a store's whole content in and out as etcd's backend file: the Snapshot method, and what restores from one.

mod restore;
mod save;
mod stream;

pub use restore::{Restored, restore};
pub(crate) use stream::{Snapshots, Stream};
