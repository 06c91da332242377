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
pub(crate) const INVALID_TOKEN: &str = "etcdserver: invalid auth token";
pub(crate) const NO_LEADER: &str = "etcdserver: no leader";
pub(crate) const LEARNER: &str = "etcdserver: rpc not supported for learner";
/// Refusals about members and releases.
pub(crate) const BAD_MEMBER_URLS: &str = "etcdserver: given member URLs are invalid";
pub(crate) const DOWNGRADE_FORMAT: &str = "etcdserver: wrong downgrade target version format";
pub(crate) const DOWNGRADE_TARGET: &str = "etcdserver: invalid downgrade target version";
pub(crate) const UNKNOWN_METHOD: &str = "etcdserver: unknown method";
pub(crate) const STOPPED: &str = "etcdserver: server stopped";
pub(crate) const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
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
        RaftError::NoMember => Code::NotFound,
        RaftError::MemberExists
        | RaftError::PeerUrlExists
        | RaftError::NotALearner
        | RaftError::LearnerNotReady
        | RaftError::TooManyLearners
        | RaftError::Learner
        | RaftError::NotLeader
        | RaftError::BadTransferee => Code::FailedPrecondition,
        RaftError::Unhealthy | RaftError::TransferTimeout | RaftError::Removed | RaftError::Replaced => {
            Code::Unavailable
        }
        // etcd has no code of its own for these.
        RaftError::TooManyRequests | RaftError::NotEnoughStarted => Code::Unknown,
        RaftError::Storage(_) => Code::DataLoss,
        RaftError::InUse(_) | RaftError::Directory { .. } | RaftError::Mismatch { .. } | RaftError::Config(_) => {
            Code::Internal
        }
    };
    Status::new(code, error.to_string())
}

/// What a client is told whose message is none.
pub(crate) fn malformed() -> Status {
    Status::internal("grpc: error unmarshalling request: proto: cannot parse invalid wire-format data")
}

/// What a client's message is told that could not be read, in the words of Go's gRPC library.
pub(crate) fn of_wire(status: Status) -> Status {
    let message = status.message();
    if status.code() == Code::OutOfRange && message.contains("message length too large") {
        // tonic says: found N bytes, the limit is: M bytes.
        let numbers: Vec<&str> = message.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
        if let [found, limit] = numbers[..] {
            return Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"));
        }
        return Status::resource_exhausted("grpc: received message larger than max");
    }
    if status.code() == Code::Internal && message.starts_with("failed to decode Protobuf message") {
        return malformed();
    }
    status
}
