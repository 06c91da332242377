//! The services as clients see them, on a node in memory; where `KELSON_TEST_ETCD` names an etcd binary, the same on it.

mod auth;
mod bounds;
mod floods;
mod frames;
mod harness;
mod json;
mod metrics;
mod poll;
mod port;
mod property;
mod renewals;
mod renewals;
mod scenario;
mod stores;
mod watches;
mod wire;
