//! Criterion micro-benchmarks of the core.
