//! Faults from outside: kills, full and read-only disks, damaged files, clients that stand still. `docs/faults.md`
//! tells how to replay one.

mod audit;
mod disk;
mod kills;
pub mod linear;
mod load;
pub mod order;
mod quorum;
mod run;
mod stall;
mod store;
mod watchers;
