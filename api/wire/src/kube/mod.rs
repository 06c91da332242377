//! The Kubernetes API as its clients see it: transports, a client over raw JSON, reflectors, shared metadata types.
//!
//! Controllers, the scheduler driver and the node simulator are written against [`Client`] alone. In one process it
//! runs on the gateway without a socket ([`Transport`] implemented by the gateway); in another it runs on HTTPS.

mod client;
mod https;
mod kubeconfig;
pub mod meta;
pub mod quantity;
mod recorder;
mod reflector;
pub mod timestamp;
mod tls;
mod transport;

pub use client::{ApiError, Client, Gvr, ListParams, PatchKind};
pub use https::Https;
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use meta::{LabelSelector, ObjectMeta, OwnerReference};
pub use recorder::{ObjectReference, Recorder};
pub use reflector::{Cache, Delta, Keyed, Reflector};
pub use transport::{Body, BoxError, Transport, full};
