//! The Kubernetes gateway: discovery, resources, watch cache, patch, admission, authentication.

mod admission;
mod binding;
mod bootstrap;
mod cache;
mod config;
pub mod defaults;
mod discovery;
mod error;
mod eviction;
mod expiry;
mod gateway;
mod health;
mod kubelet;
mod limit;
mod logs;
mod media;
mod metrics;
pub mod openapi;
pub mod patch;
pub mod pki;
mod protobuf;
mod query;
mod registry;
mod route;
mod scale;
mod scan;
pub mod schema;
mod selector;
mod serve;
mod service;
mod shape;
mod status;
pub mod table;
pub mod validate;
mod verbs;

pub use config::Config;
pub use error::Error;
pub use gateway::{Gateway, User};
pub use kubelet::KubeletClient;

#[cfg(test)]
mod tests;
