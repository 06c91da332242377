//! The etcd v3 services, health and metrics on a raft handle, and the local store.
