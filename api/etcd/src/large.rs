//! Large answers of Range, encoded while they are sent: of what was read there is never a second copy, and what lies in
//! memory for clients that are slow to take it is bounded.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use kelson_wire::pb::etcdserverpb::RangeResponse;
use kelson_wire::pb::mvccpb::KeyValue;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::call::PREFIX;
use crate::refusal;

/// Answers from so many bytes of keys and values on are large.
const LARGE: usize = 1 << 20;
/// Bytes that are encoded at a time.
const CHUNK: usize = 256 << 10;
/// Bytes that one permit stands for.
const UNIT: usize = 1 << 10;
/// The largest message that Go's gRPC library sends, or can receive.
const MOST: usize = i32::MAX as usize;

/// The number of a [`RangeResponse`]'s field of keys.
const KVS: u32 = 2;

/// Bounds the bytes of all large answers that are on their way.
pub(crate) struct Room {
    permits: Arc<Semaphore>,
    units: u32,
    /// How long an answer waits until those before it have been taken.
    patience: Duration,
}

impl Room {
    pub(crate) fn new(bytes: usize, patience: Duration) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3);
        Self { permits: Arc::new(Semaphore::new(units as usize)), units, patience }
    }

    /// Waits for its turn; one that is larger than the bound waits until it is the only one.
    async fn enter(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, self.units);
        match tokio::time::timeout(self.patience, self.permits.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Status::unknown(refusal::TOO_MANY_REQUESTS)),
        }
    }
}

/// The body of a large answer.
pub(crate) struct Large {
    /// Everything but the keys, which come between the two.
    front: Bytes,
    kvs: VecDeque<KeyValue>,
    back: Bytes,
    /// Given back, with the trailers, when all is sent; or when nobody wants it any more.
    permit: Option<OwnedSemaphorePermit>,
}

impl Large {
    /// Takes an answer if it is large; what is left of it is empty.
    ///
    /// # Errors
    /// `etcdserver: too many requests` when clients do not take what is there for them, and gRPC's refusal of messages
    /// beyond 2 GiB.
    pub(crate) async fn take(answer: &mut RangeResponse, room: &Room) -> Result<Option<Self>, Status> {
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        if bytes < LARGE {
            return Ok(None);
        }
        let answer = std::mem::take(answer);
        let head = RangeResponse { header: answer.header, ..Default::default() };
        let back = RangeResponse { more: answer.more, count: answer.count, ..Default::default() }.encode_to_vec();
        let kvs: usize = answer.kvs.iter().map(|kv| prost::encoding::message::encoded_len(KVS, kv)).sum();
        let length = head.encoded_len() + kvs + back.len();
        if length > MOST {
            let text = format!("trying to send message larger than max ({length} vs. {MOST})");
            return Err(Status::resource_exhausted(text));
        }
        let mut front = BytesMut::with_capacity(PREFIX + head.encoded_len());
        front.put_u8(0);
        front.put_u32(length as u32);
        front.extend_from_slice(&head.encode_to_vec());
        let permit = room.enter(length).await?;
        Ok(Some(Self { front: front.freeze(), kvs: answer.kvs.into(), back: back.into(), permit: Some(permit) }))
    }
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if !this.front.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.front)))));
        }
        if !this.kvs.is_empty() {
            let mut chunk = BytesMut::with_capacity(CHUNK + (CHUNK >> 2));
            while chunk.len() < CHUNK
                && let Some(kv) = this.kvs.pop_front()
            {
                prost::encoding::message::encode(KVS, &kv, &mut chunk);
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))));
        }
        if !this.back.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.back)))));
        }
        let end = this.permit.take().map(|_| {
            Ok(Frame::trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )])))
        });
        Poll::Ready(end)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use kelson_wire::pb::etcdserverpb::ResponseHeader;

    use super::*;

    fn answer(count: usize, size: usize) -> RangeResponse {
        let kv = |i: usize| KeyValue {
            key: format!("k{i}").into(),
            value: vec![b'x'; size].into(),
            mod_revision: i as i64,
            ..Default::default()
        };
        RangeResponse {
            header: Some(ResponseHeader { revision: 7, ..Default::default() }),
            kvs: (0..count).map(kv).collect(),
            more: true,
            count: 99,
        }
    }

    #[tokio::test]
    async fn what_is_sent_in_pieces_is_the_same_message() {
        let room = Room::new(1 << 30, Duration::MAX);
        for (count, size) in [(1, 2 << 20), (3000, 1000), (20, 100_000)] {
            let whole = answer(count, size);
            let mut rest = whole.clone();
            let mut body = Large::take(&mut rest, &room).await.unwrap().unwrap();
            let (mut sent, mut largest) = (BytesMut::new(), 0);
            while let Some(frame) = body.frame().await {
                let frame = frame.unwrap();
                match frame.data_ref() {
                    Some(data) => {
                        largest = largest.max(data.len());
                        sent.extend_from_slice(data);
                    }
                    None => assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "0"),
                }
            }
            assert!(largest <= CHUNK + size + 64, "pieces of {largest} bytes");
            assert_eq!(sent[..PREFIX], [&[0][..], &(sent.len() as u32 - 5).to_be_bytes()].concat());
            assert_eq!(RangeResponse::decode(&sent[PREFIX..]).unwrap(), whole);
        }
        assert!(Large::take(&mut answer(10, 10), &room).await.unwrap().is_none(), "small ones are sent at once");
    }

    #[tokio::test]
    async fn answers_wait_until_those_before_them_are_taken() {
        let room = Arc::new(Room::new(3 << 20, Duration::MAX));
        let first = Large::take(&mut answer(2, 1 << 20), &room).await.unwrap().unwrap();
        let second = tokio::spawn({
            let room = room.clone();
            async move { Large::take(&mut answer(2, 1 << 20), &room).await.map(|large| large.is_some()) }
        });
        // It has had every chance to run.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        drop(first);
        assert!(matches!(second.await.unwrap(), Ok(true)));
    }
}
