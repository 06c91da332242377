//! Thousands of simulated VM agents over the public Kubernetes API.
//!
//! Each agent does what a kubelet does as far as the API can see: it registers a Node with the size of its VM, renews a
//! Lease, admits and runs the pods that are bound to it, reports their status and serves their logs. No container runs;
//! what a container would do is worked out from its image, its command and its probes (`docs/nodesim.md` says how).
//!
//! The core (`agents.rs`) is a state machine without I/O: API objects and the time go in, API calls come out.
//! It draws everything that looks random from a seed, so a run can be repeated. The driver around it is one event loop,
//! two watches and a bounded number of API calls in flight; there is no task, timer or socket per node or per pod.

mod admission;
mod adopt;
mod agents;
mod arithmetic;
#[cfg(test)]
mod cluster;
mod config;
mod container;
mod digest;
mod driver;
mod error;
#[cfg(test)]
mod gateway;
mod image;
mod kubelet;
mod lease;
mod logs;
mod node;
mod notes;
mod places;
mod plan;
mod pod;
mod probe;
mod program;
mod provider;
mod queue;
mod resources;
mod script;
mod shell;
mod size;
mod status;
#[cfg(test)]
mod stories;
mod tail;
mod view;
mod vms;
mod words;

pub use config::{Config, KubeletConfig, Timings};
pub use driver::{Handle, Progress, Simulator, run};
pub use error::Error;
pub use provider::{Provider, ProviderError, Vm, VmRequest};
pub use size::{CATALOGUE, DEFAULT_SIZE, DiskKind, VmSize, find as find_size};

/// Milliseconds: since 1970 where it is a moment, else a length of time.
pub type Millis = u64;
