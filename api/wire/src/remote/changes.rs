//! One watch of a remote store: one gRPC stream with one watch on it.

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::pb::etcdserverpb::watch_client::WatchClient;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::pb::mvccpb::Event;
use crate::pb::mvccpb::event::EventType;
use crate::store::{Change, Changes, StoreError};

/// Requests that wait to be sent on one watch stream: the creation, and progress requests.
const REQUESTS: usize = 4;

/// Opens a watch and waits until the server has it.
///
/// The sender takes further requests for it. The changes hold the only strong one: an HTTP/2 stream is closed only when
/// both of its directions are, so dropping the changes must end the requests too.
pub(super) async fn open(
    channel: Channel,
    (key, range_end): (Bytes, Bytes),
    start_revision: i64,
) -> Result<(mpsc::WeakSender<WatchRequest>, Changes), StoreError> {
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    };
    let (requests, receiver) = mpsc::channel(REQUESTS);
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.try_send(create).map_err(|_| lost())?;
    let mut answers = WatchClient::new(channel)
        .max_decoding_message_size(super::MAX_ANSWER)
        .watch(ReceiverStream::new(receiver))
        .await
        .map_err(|status| super::store_error(&status))?
        .into_inner();
    let first = next(&mut answers).await?;
    if first.canceled {
        return Err(canceled(first));
    }
    let weak = requests.downgrade();
    let changes = stream::unfold(Some((answers, requests)), |open| async move {
        let (mut answers, requests) = open?;
        loop {
            match next(&mut answers).await.and_then(changes) {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => return Some((Ok(batch), Some((answers, requests)))),
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    Ok((weak, Box::pin(changes)))
}

async fn next(answers: &mut Streaming<WatchResponse>) -> Result<WatchResponse, StoreError> {
    match answers.message().await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(lost()),
        Err(status) => Err(super::store_error(&status)),
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("the watch was closed by the server".into())
}

fn canceled(answer: WatchResponse) -> StoreError {
    if answer.compact_revision > 0 || answer.cancel_reason.contains("compacted") {
        StoreError::Compacted { compacted: answer.compact_revision }
    } else {
        StoreError::Unavailable(format!("the watch was canceled by the server: {}", answer.cancel_reason))
    }
}

fn changes(answer: WatchResponse) -> Result<Vec<Change>, StoreError> {
    if answer.canceled {
        return Err(canceled(answer));
    }
    if answer.events.is_empty() && !answer.created {
        let revision = answer.header.map_or(0, |header| header.revision);
        return Ok(vec![Change::Progress { revision }]);
    }
    Ok(answer.events.into_iter().filter_map(change).collect())
}

fn change(event: Event) -> Option<Change> {
    let previous = event.prev_kv.map(super::object);
    let deleted = event.r#type == EventType::Delete as i32;
    let kv = event.kv?;
    Some(if deleted {
        Change::Delete { key: kv.key, revision: kv.mod_revision, previous }
    } else {
        Change::Put { object: super::object(kv), previous }
    })
}
