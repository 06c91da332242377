//! Wire types and the two client seams: the store (etcd's contract) and the Kubernetes API.
//!
//! Nothing here knows a storage engine, a consensus library or a server: a load client links this crate alone.

pub mod kube;
pub mod store;
