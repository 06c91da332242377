//! The Kubernetes gateway: discovery, resources, watch cache, patch, admission, authentication.

pub mod defaults;
pub mod schema;
pub mod validate;
