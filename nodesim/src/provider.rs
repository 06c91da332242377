//! VMs as a cloud offers them: asked for, listed, deleted. The simulator is one such cloud.

use crate::size::VmSize;

/// What to create.
#[derive(Clone, Debug)]
pub struct VmRequest {
    /// Name of the VM and of its Node: a DNS label.
    pub name: String,
    /// Size, by its public name.
    pub size: String,
    /// Agent pool it belongs to.
    pub pool: String,
    /// Zone within the region, empty for none.
    pub zone: String,
}

/// A VM that exists.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Name of the VM and of its Node.
    pub name: String,
    /// Its row of the catalogue.
    pub size: &'static VmSize,
    /// Agent pool it belongs to.
    pub pool: String,
    /// Zone within the region, empty for none.
    pub zone: String,
    /// Whether its agent runs: false while it is stopped or cut off by a failure control.
    pub up: bool,
}

/// Why a VM cannot be created or deleted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// There is a VM of this name.
    #[error("VM {0:?} already exists")]
    Exists(String),
    /// There is none.
    #[error("VM {0:?} not found")]
    NotFound(String),
    /// The size is not in the catalogue.
    #[error("VM size {0:?} is not available")]
    UnknownSize(String),
    /// No room for more.
    #[error("the quota of {0} VMs is used up")]
    Quota(usize),
    /// The name is not a DNS label.
    #[error("VM name {0:?} is invalid: lower case letters, digits and '-', at most 63 characters")]
    InvalidName(String),
}

/// A cloud that has VMs.
#[async_trait::async_trait]
pub trait Provider: Send + Sync {
    /// Creates a VM, whose agent then registers its Node.
    ///
    /// # Errors
    /// If the name is taken or invalid, the size unknown or the quota used up.
    async fn create(&self, request: VmRequest) -> Result<Vm, ProviderError>;

    /// Deletes a VM at once, as if the power were cut. Its Node object stays, for a controller to clean up.
    ///
    /// # Errors
    /// If there is none of this name.
    async fn delete(&self, name: &str) -> Result<(), ProviderError>;

    /// All VMs, in order of their names.
    async fn list(&self) -> Vec<Vm>;
}
