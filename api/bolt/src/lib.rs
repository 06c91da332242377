//! The file that etcd keeps its data in, and sends as a snapshot: bbolt's pages, and etcd's buckets in them.
//!
//! [`Writer`] makes such a file from sorted input in bounded memory; [`Db`] reads one without trusting a byte of it.
//! [`schema`] is what etcd puts in: revisions, leases, users. Nothing here knows a store, a network or a clock.
//!
//! The format (all numbers little endian): the file is an array of pages. Pages 0 and 1 hold one meta record each, of
//! which the newest intact one counts; it names the page of the root bucket. A bucket is a B+ tree of branch and leaf
//! pages. A leaf's value is data or a nested bucket: its root page and a sequence number, or, when the bucket is
//! small, the leaf page itself ("inline").

mod check;
mod cursor;
mod db;
mod error;
mod format;
mod proto;
pub mod schema;
mod status;
#[cfg(test)]
mod tests;
mod writer;

pub use check::Marks;
pub use cursor::{Cursor, Item};
pub use db::{Bucket, Db};
pub use error::Error;
pub use format::{MAX_KEY, MAX_VALUE, PAGE_SIZE};
pub use status::Status;
pub use writer::Writer;
