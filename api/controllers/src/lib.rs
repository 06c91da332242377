//! What kube-controller-manager does, and the driver that feeds the scheduler core.
//!
//! Each controller is a pure core (a view of the world in, what to write out) and a thin driver that feeds it from shared
//! caches through a work queue. [`run`] starts them all.

mod batch;
mod claim;
mod collector;
mod config;
mod control;
mod controller;
mod daemonset;
mod deployment;
mod discovery;
mod election;
mod endpoint;
mod error;
mod events;
mod expectation;
mod identity;
mod informer;
mod intern;
mod job;
mod lifecycle;
mod manager;
mod namespace;
mod queue;
mod replicaset;
pub mod scheduler;
mod view;
mod world;

pub use config::Config;
pub use election::Election;
pub use error::Error;
pub use manager::run;

#[cfg(test)]
mod tests;
