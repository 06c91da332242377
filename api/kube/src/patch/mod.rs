//! The patches of the Kubernetes API: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch.
//!
//! Each takes the current object and the patch as values and returns the patched object, which still has to be decoded,
//! defaulted and validated. The server bounds the size of the patch; what a patch can make out of little is bounded here.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::strategic;

/// The largest number of operations in a JSON patch.
pub const MAX_JSON_OPERATIONS: usize = 10_000;

/// How many bytes the `copy` operations of one JSON patch may add.
pub const MAX_JSON_COPY_BYTES: usize = 3 << 20;

/// Why a patch was not applied. The texts are those of kube-apiserver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400, `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the object: 422; kube-apiserver gives `Status.message` as [`PatchError::UNPROCESSABLE`] and
    /// this text as a cause.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch has too many operations: 413, `RequestEntityTooLarge`.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// The message of the status for [`PatchError::Unprocessable`].
    pub const UNPROCESSABLE: &'static str = "the server rejected our request due to an error in our request";

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            PatchError::BadRequest(_) => 400,
            PatchError::Unprocessable(_) => 422,
            PatchError::TooLarge(_) => 413,
        }
    }
}

#[cfg(test)]
mod tests;
