//! Wire types and the two client seams: the store (etcd's contract) and the Kubernetes API.
//!
//! Nothing here knows a storage engine, a consensus library or a server: a load client links this crate alone.

pub mod http2;
pub mod kube;
pub mod model;
pub mod pb;
pub mod prefix;
#[cfg(any(test, feature = "testing"))]
pub mod real_etcd;
pub mod remote;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod store_suite;
