//! Thousands of simulated VM agents over the public API.
