//! The scheduler core: cluster snapshot and pods in, bindings out.
