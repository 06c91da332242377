//! What clients are told when something is refused: etcd's codes and texts, because clients match on both.

use kelson_engine::Error as EngineError;
use kelson_engine::auth::Refusal;
use kelson_raft::Error as RaftError;
use tonic::{Code, Status};

/// Requests that can never succeed as they are.
pub(crate) const EMPTY_KEY: &str = "etcdserver: key is not provided";
pub(crate) const KEY_NOT_FOUND: &str = "etcdserver: key not found";
pub(crate) const VALUE_PROVIDED: &str = "etcdserver: value is provided";
pub(crate) const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
pub(crate) const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
pub(crate) const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
pub(crate) const INVALID_SORT: &str = "etcdserver: invalid sort option";
pub(crate) const TOO_LARGE: &str = "etcdserver: request is too large";
/// Why a watch was refused or canceled.
pub(crate) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub(crate) const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
pub(crate) const DUPLICATE_WATCH: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// Why nothing can be served at present.
pub(crate) const NO_LEADER: &str = "etcdserver: no leader";
pub(crate) const STOPPED: &str = "etcdserver: server stopped";
pub(crate) const TOO_MANY_REQUESTS: &str = "etcdserver: too many requests";

pub(crate) fn invalid(text: &str) -> Status {
    Status::invalid_argument(text)
}

/// The status for a refusal by the state machine.
pub(crate) fn of_engine(error: &EngineError) -> Status {
    let code = match error {
        EngineError::Compacted | EngineError::FutureRevision | EngineError::LeaseTtlTooLarge => Code::OutOfRange,
        EngineError::LeaseNotFound => Code::NotFound,
        EngineError::NoSpace => Code::ResourceExhausted,
        EngineError::LeaseExists => Code::FailedPrecondition,
        EngineError::KeyNotFound | EngineError::DuplicateKey => Code::InvalidArgument,
        EngineError::Corrupt | EngineError::Storage(_) | EngineError::Malformed(_) | EngineError::OutOfOrder { .. } => {
            Code::DataLoss
        }
        EngineError::Auth(refusal) => return of_auth(*refusal),
        // Answers no request.
        EngineError::Import(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The status for a refusal by auth.
pub(crate) fn of_auth(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::UserEmpty
        | Refusal::RoleEmpty
        | Refusal::AuthFailed
        | Refusal::PermissionNotGiven
        | Refusal::OldRevision
        | Refusal::InvalidManagement => Code::InvalidArgument,
        Refusal::PermissionDenied => Code::PermissionDenied,
        Refusal::RootUserNotExist
        | Refusal::RootRoleNotExist
        | Refusal::UserExists
        | Refusal::UserNotFound
        | Refusal::RoleExists
        | Refusal::RoleNotFound
        | Refusal::RoleNotGranted
        | Refusal::PermissionNotGranted
        | Refusal::NotEnabled => Code::FailedPrecondition,
    };
    Status::new(code, refusal.to_string())
}

/// The status for a command or a read that failed.
pub(crate) fn of_raft(error: &RaftError) -> Status {
    let code = match error {
        RaftError::Engine(error) => return of_engine(error),
        RaftError::Stopped | RaftError::NoLeader | RaftError::LeaderChanged | RaftError::Timeout => Code::Unavailable,
        RaftError::TooDeep => Code::InvalidArgument,
        // etcd has no code of its own for it.
        RaftError::TooManyRequests => Code::Unknown,
        RaftError::Storage(_) => Code::DataLoss,
        RaftError::InUse(_) | RaftError::Directory { .. } | RaftError::Mismatch { .. } | RaftError::Config(_) => {
            Code::Internal
        }
    };
    Status::new(code, error.to_string())
}

/// For what etcd has and we do not have yet.
pub(crate) fn absent(what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: {what} is not supported by this server"))
}
