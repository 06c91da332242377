//! The services as clients see them, on a node in memory; where `KELSON_TEST_ETCD` names an etcd binary, the same on it.

mod harness;
mod port;
mod property;
mod scenario;
mod stores;
mod watches;
