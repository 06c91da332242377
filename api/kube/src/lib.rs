//! The Kubernetes gateway: discovery, resources, watch cache, patch, admission, authentication.

pub mod defaults;
pub mod openapi;
pub mod patch;
pub mod schema;
pub mod table;
pub mod validate;
