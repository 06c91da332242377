//! The store as an etcd: under its name, with its flags, and beside the real one where that is there.

mod certificates;
mod flags;
mod listeners;
mod member;
mod places;
mod tls;
