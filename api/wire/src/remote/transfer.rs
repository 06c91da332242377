//! What moving a whole store needs of an etcd endpoint: its snapshot, or where that is not allowed its keys and leases.

use std::time::Duration;

use bytes::Bytes;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::endpoint::{RemoteOptions, channel};
use crate::pb::etcdserverpb::auth_client::AuthClient;
use crate::pb::etcdserverpb::kv_client::KvClient;
use crate::pb::etcdserverpb::lease_client::LeaseClient;
use crate::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::pb::etcdserverpb::{
    AuthenticateRequest, LeaseLeasesRequest, LeaseTimeToLiveRequest, RangeRequest, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use crate::pb::mvccpb::KeyValue;

/// Largest message taken in: an etcd answers a page of keys with one.
const MAX_ANSWER: usize = i32::MAX as usize;

/// Why an endpoint could not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    /// It does not allow this to whoever asks, or does not have it at all.
    #[error("{endpoint}: {message}")]
    Refused { endpoint: String, message: String },
    /// It could not be reached, or broke off.
    #[error("{endpoint}: {message}")]
    Failed { endpoint: String, message: String },
}

/// One endpoint, as one user.
#[derive(Clone)]
pub struct Transfer {
    endpoint: String,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    timeout: Duration,
}

/// A snapshot on its way.
pub struct SnapshotStream {
    endpoint: String,
    stream: Streaming<SnapshotResponse>,
}

impl SnapshotStream {
    /// The next piece; `None` at the end. The last piece is the SHA-256 of all before.
    ///
    /// # Errors
    /// [`TransferError`] when the endpoint breaks off.
    pub async fn next(&mut self) -> Result<Option<SnapshotResponse>, TransferError> {
        self.stream.message().await.map_err(|status| failure(&self.endpoint, &status))
    }
}

/// Keys from a start on, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    /// The store's revision at the time.
    pub revision: i64,
}

/// Seconds of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLeft {
    pub granted: i64,
    pub left: i64,
}

impl Transfer {
    /// Connects to the first of the endpoints that answers, and signs in there with a user's name and password.
    ///
    /// # Errors
    /// [`TransferError`] of the last endpoint.
    pub async fn connect(
        options: &RemoteOptions,
        credentials: Option<(&str, &str)>,
    ) -> Result<(Transfer, StatusResponse), TransferError> {
        let none = TransferError::Failed { endpoint: "endpoints".to_owned(), message: "none is given".to_owned() };
        let mut last = Err(none);
        for endpoint in &options.endpoints {
            last = Transfer::to(endpoint, options, credentials).await;
            if last.is_ok() {
                break;
            }
        }
        last
    }

    async fn to(
        endpoint: &str,
        options: &RemoteOptions,
        credentials: Option<(&str, &str)>,
    ) -> Result<(Transfer, StatusResponse), TransferError> {
        let failed = |message: String| TransferError::Failed { endpoint: endpoint.to_owned(), message };
        let channel = channel(endpoint, options).map_err(|error| failed(error.to_string()))?;
        let mut transfer =
            Transfer { endpoint: endpoint.to_owned(), channel, token: None, timeout: options.request_timeout };
        if let Some((name, password)) = credentials {
            let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let mut client = AuthClient::new(transfer.channel.clone());
            let answer = client.authenticate(transfer.timed(request)).await;
            let token = answer.map_err(|status| transfer.failure(&status))?.into_inner().token;
            let token = token.parse().map_err(|_| failed("it gave a token that cannot be sent".to_owned()))?;
            transfer.token = Some(token);
        }
        let status = transfer.maintenance().status(transfer.timed(StatusRequest {})).await;
        let status = status.map_err(|status| transfer.failure(&status))?.into_inner();
        Ok((transfer, status))
    }

    /// The endpoint in use.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(self.timeout);
        request
    }

    fn failure(&self, status: &Status) -> TransferError {
        failure(&self.endpoint, status)
    }

    /// Asks for the snapshot, which takes as long as it takes.
    ///
    /// # Errors
    /// [`TransferError::Refused`] where only root may have it; [`TransferError::Failed`].
    pub async fn snapshot(&self) -> Result<SnapshotStream, TransferError> {
        let answer = self.maintenance().snapshot(self.request(SnapshotRequest {})).await;
        let stream = answer.map_err(|status| self.failure(&status))?.into_inner();
        Ok(SnapshotStream { endpoint: self.endpoint.clone(), stream })
    }

    /// Up to `limit` keys from `start` on, at `revision` (0: the newest).
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn page(&self, start: Bytes, revision: i64, limit: i64) -> Result<Page, TransferError> {
        let end = Bytes::from_static(b"\0");
        let request = RangeRequest { key: start, range_end: end, revision, limit, ..RangeRequest::default() };
        let mut client = KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = client.range(self.timed(request)).await.map_err(|status| self.failure(&status))?.into_inner();
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(Page { kvs: answer.kvs, more: answer.more, revision })
    }

    /// Ids of all leases.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn leases(&self) -> Result<Vec<i64>, TransferError> {
        let mut client = LeaseClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = client.lease_leases(self.timed(LeaseLeasesRequest {})).await;
        let answer = answer.map_err(|status| self.failure(&status))?.into_inner();
        Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// What a lease has left; `None` when it is gone.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn lease(&self, id: i64) -> Result<Option<LeaseLeft>, TransferError> {
        let request = self.timed(LeaseTimeToLiveRequest { id, keys: false });
        let answer = LeaseClient::new(self.channel.clone()).lease_time_to_live(request).await;
        let answer = answer.map_err(|status| self.failure(&status))?.into_inner();
        let left = LeaseLeft { granted: answer.granted_ttl, left: answer.ttl };
        Ok((answer.ttl >= 0).then_some(left))
    }
}

fn failure(endpoint: &str, status: &Status) -> TransferError {
    let (endpoint, message) = (endpoint.to_owned(), super::endpoint::describe(status));
    let refused = match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => true,
        // What etcd says to nobody in particular while auth is on.
        Code::InvalidArgument => status.message().contains("user name is empty"),
        _ => false,
    };
    match refused {
        true => TransferError::Refused { endpoint, message },
        false => TransferError::Failed { endpoint, message },
    }
}
