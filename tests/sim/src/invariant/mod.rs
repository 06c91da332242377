//! What must hold, one file each. Some are checked at every step, the others on what clients were told.

pub mod agreement;
pub mod answers;
pub mod ballot;
pub mod compaction;
pub mod durability;
pub mod lease;
pub mod liveness;
pub mod quorum;
pub mod register;
pub mod revisions;
pub mod watch;
