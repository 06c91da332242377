//! The Kubernetes gateway: discovery, resources, watch cache, patch, admission, authentication.
