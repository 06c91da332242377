//! The primitives that workers share, behind one name so that loom can swap them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p kelson-sched --lib loom_tests` runs every interleaving of the small cases.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
