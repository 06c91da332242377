//! The crate's one error.

use kelson_wire::kube::ApiError;

/// Why a controller, or all of them, could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused a call, or did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// An object cannot be acted on as it is; the message says what is wrong with it.
    #[error("{0}")]
    Invalid(String),
    /// Another process holds, or took over, the leader election lease.
    #[error("leader election lost: {0} holds the lease")]
    LeaseLost(String),
    /// A task of the manager ended by a panic.
    #[error("controller task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether a newer view of the object will settle it: a routine outcome, not worth a warning.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Error::Api(error) if error.is_conflict() || error.is_not_found())
    }

    /// Whether the object that was acted on is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Api(error) if error.is_not_found())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Api(ApiError::Decode(error))
    }
}
