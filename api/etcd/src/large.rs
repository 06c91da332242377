//! Large answers of Range, encoded while they are sent, and where their size is known before also read meanwhile: of what
//! was read there is never a second copy, and what lies in memory for clients that are slow to take it is bounded.

mod line;

pub(crate) use line::length as size;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use crossbeam_queue::ArrayQueue;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use kelson_engine::Listing;
use kelson_wire::pb::etcdserverpb::{RangeResponse, ResponseHeader};
use kelson_wire::pb::mvccpb::KeyValue;
use prost::Message;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::call::PREFIX;
use crate::refusal;

/// Answers from so many bytes of keys and values on are large.
pub(crate) const LARGE: usize = 1 << 20;
/// Bytes that are encoded at a time.
const CHUNK: usize = 256 << 10;
/// Pieces of one answer that are kept to be used again.
const SPARES: usize = 4;
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

/// The answer to a range.
pub(crate) enum Ranged {
    Small(RangeResponse),
    Large(Large),
}

/// The body of a large answer.
pub(crate) struct Large {
    /// Everything but the keys, which come between the two.
    front: Bytes,
    kvs: Kvs,
    back: Bytes,
    /// Given back, with the trailers, when all is sent; or when nobody wants it any more.
    permit: Option<OwnedSemaphorePermit>,
}

/// The keys of a large answer.
enum Kvs {
    /// Those that are left.
    Read(VecDeque<KeyValue>),
    /// What has been encoded of them. No more of it waits than the permit stands for.
    Coming {
        pieces: UnboundedReceiver<Result<Bytes, Status>>,
        /// Bytes that have not come.
        left: usize,
    },
}

impl Large {
    /// An answer that is read while it is sent, and what reads it.
    ///
    /// # Errors
    /// As [`Large::of`].
    pub(crate) async fn read(
        listing: Listing,
        header: Option<ResponseHeader>,
        room: &Room,
    ) -> Result<(Self, impl FnOnce() -> bool + Send + 'static), Status> {
        let rest = RangeResponse { header, more: listing.more, count: listing.count, kvs: Vec::new() };
        let (sender, pieces) = unbounded_channel();
        let kvs = Kvs::Coming { pieces, left: listing.size };
        let large = Self::new(rest, kvs, listing.size, room).await?;
        Ok((large, move || encode(&listing, &sender)))
    }

    /// Everything about an answer but its keys, which take so many bytes.
    async fn new(mut rest: RangeResponse, kvs: Kvs, bytes: usize, room: &Room) -> Result<Self, Status> {
        let head = RangeResponse { header: rest.header.take(), ..Default::default() };
        let back = rest.encode_to_vec();
        let length = head.encoded_len() + bytes + back.len();
        if length > MOST {
            let text = format!("trying to send message larger than max ({length} vs. {MOST})");
            return Err(Status::resource_exhausted(text));
        }
        let mut front = BytesMut::with_capacity(PREFIX + head.encoded_len());
        front.put_u8(0);
        front.put_u32(length as u32);
        front.extend_from_slice(&head.encode_to_vec());
        let permit = room.enter(length).await?;
        Ok(Self { front: front.freeze(), kvs, back: back.into(), permit: Some(permit) })
    }

    /// An answer that has been read, as it is to be sent.
    ///
    /// # Errors
    /// `etcdserver: too many requests` when clients do not take what is there for them, and gRPC's refusal of messages
    /// beyond 2 GiB.
    pub(crate) async fn of(mut answer: RangeResponse, room: &Room) -> Result<Ranged, Status> {
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        if bytes < LARGE {
            return Ok(Ranged::Small(answer));
        }
        let kvs = std::mem::take(&mut answer.kvs);
        let bytes = kvs.iter().map(|kv| prost::encoding::message::encoded_len(KVS, kv)).sum();
        Self::new(answer, Kvs::Read(kvs.into()), bytes, room).await.map(Ranged::Large)
    }
}

/// Reads and encodes the keys of an answer, until nobody wants them any more; whether they could be read.
fn encode(listing: &Listing, pieces: &UnboundedSender<Result<Bytes, Status>>) -> bool {
    let spares = Arc::new(ArrayQueue::new(SPARES));
    let mut piece = Piece::new(&spares);
    let read = listing.read(&mut |head, value| {
        line::encode(head, value, &mut piece.bytes);
        if piece.bytes.len() < CHUNK {
            return true;
        }
        let full = std::mem::replace(&mut piece, Piece::new(&spares));
        pieces.send(Ok(Bytes::from_owner(full))).is_ok()
    });
    let done = read.is_ok();
    // Who has gone does not mind.
    let _ = match read {
        Ok(()) => pieces.send(Ok(Bytes::from_owner(piece))),
        Err(error) => pieces.send(Err(refusal::of_engine(&error))),
    };
    done
}

/// A piece of an answer, whose memory is used again once it is sent: memory that is new costs more than what is put there.
struct Piece {
    bytes: Vec<u8>,
    spares: Arc<ArrayQueue<Vec<u8>>>,
}

impl Piece {
    fn new(spares: &Arc<ArrayQueue<Vec<u8>>>) -> Self {
        let bytes = spares.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK + (CHUNK >> 2)));
        Self { bytes, spares: spares.clone() }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.bytes.clear();
        // Who has no room for it has enough of them.
        let _ = self.spares.push(std::mem::take(&mut self.bytes));
    }
}

/// What is said where the keys are not as many as was promised.
fn cut_off() -> Status {
    Status::internal("the answer could not be read to its end")
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if !this.front.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.front)))));
        }
        match &mut this.kvs {
            Kvs::Read(kvs) if kvs.is_empty() => {}
            Kvs::Read(kvs) => {
                let mut chunk = BytesMut::with_capacity(CHUNK + (CHUNK >> 2));
                while chunk.len() < CHUNK
                    && let Some(kv) = kvs.pop_front()
                {
                    prost::encoding::message::encode(KVS, &kv, &mut chunk);
                }
                return Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))));
            }
            Kvs::Coming { left: 0, .. } => {}
            Kvs::Coming { pieces, left } => {
                let piece = ready!(pieces.poll_recv(task)).unwrap_or_else(|| Err(cut_off()));
                let fits = piece.and_then(|piece| {
                    *left = left.checked_sub(piece.len()).filter(|_| !piece.is_empty()).ok_or_else(cut_off)?;
                    Ok(Frame::data(piece))
                });
                return Poll::Ready(Some(fits));
            }
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
    use kelson_engine::backend::{Backend, Batch, Space};
    use kelson_engine::command::{Command, KeyRange, Put};
    use kelson_engine::{Applied, Engine, EngineOptions, MemoryBackend, Revision};
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

    async fn large(answer: RangeResponse, room: &Room) -> Large {
        match Large::of(answer, room).await {
            Ok(Ranged::Large(large)) => large,
            _ => panic!("it is large"),
        }
    }

    /// What a body says, and the size of its largest piece.
    async fn told(mut body: Large) -> Result<(usize, RangeResponse), Status> {
        let (mut sent, mut largest, mut ended) = (BytesMut::new(), 0, false);
        while let Some(frame) = body.frame().await {
            assert!(!ended);
            match frame?.into_data() {
                Ok(data) => {
                    largest = largest.max(data.len());
                    sent.extend_from_slice(&data);
                }
                Err(trailers) => {
                    assert_eq!(trailers.into_trailers().unwrap()["grpc-status"], "0");
                    ended = true;
                }
            }
        }
        assert!(ended);
        assert_eq!(sent[..PREFIX], [&[0][..], &(sent.len() as u32 - 5).to_be_bytes()].concat());
        Ok((largest, RangeResponse::decode(&sent[PREFIX..]).unwrap()))
    }

    /// Every key of a store with so many, and the message that it is.
    fn listing(backend: &Arc<MemoryBackend>, count: usize, size: usize) -> (Listing, RangeResponse) {
        let options = EngineOptions { cache_bytes: 0, ..EngineOptions::default() };
        let mut engine = Engine::open_with(backend.clone(), options).unwrap();
        let mut whole = RangeResponse { header: answer(0, 0).header, count: count as i64, ..Default::default() };
        for i in 0..count {
            let (key, value) = (Bytes::from(format!("k{i:05}")), Bytes::from(vec![i as u8; size + i % 3]));
            let put = Put { key: key.clone(), value: value.clone(), ..Default::default() };
            let applied = Applied { term: 1, node: 1, index: i as u64 + 1 };
            engine.apply(applied, &[Command::Put(put)], &[]).unwrap();
            let (create_revision, mod_revision) = (i as i64 + 2, i as i64 + 2);
            whole.kvs.push(KeyValue { key, value, create_revision, mod_revision, version: 1, lease: 0 });
        }
        let range = KeyRange { start: "k".into(), end: "l".into() };
        let request = kelson_engine::RangeRequest::whole(range, 0);
        (engine.reader().listing(&request, 0, &super::size).unwrap().unwrap(), whole)
    }

    #[tokio::test]
    async fn what_is_read_while_it_is_sent_is_the_same_message() {
        let room = Room::new(1 << 30, Duration::MAX);
        for (count, size) in [(1, 2 << 20), (3000, 1000), (20, 100_000), (10, 0), (256, 1000)] {
            let (listing, whole) = listing(&Arc::default(), count, size);
            let (body, read) = Large::read(listing, whole.header, &room).await.unwrap();
            let reading = tokio::task::spawn_blocking(read);
            let (largest, sent) = told(body).await.unwrap();
            assert!(largest <= CHUNK + size + 64, "pieces of {largest} bytes");
            assert_eq!(sent, whole);
            assert!(reading.await.unwrap());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_to_its_end_ends_as_an_error() {
        let room = Room::new(1 << 30, Duration::MAX);
        let backend = Arc::<MemoryBackend>::default();
        let (listing, whole) = listing(&backend, 1000, 1000);
        let mut batch = Batch::default();
        batch.delete(Space::Revisions, &Revision { main: 900, sub: 0 }.to_bytes());
        backend.write(batch).unwrap();
        let (body, read) = Large::read(listing, whole.header, &room).await.unwrap();
        assert!(!read());
        let error = told(body).await.err().unwrap();
        assert_eq!(error.code(), tonic::Code::DataLoss, "{error}");
        // Nor does one that nobody reads seem to be whole.
        let (listing, whole) = self::listing(&Arc::default(), 1000, 1000);
        let (body, read) = Large::read(listing, whole.header, &room).await.unwrap();
        drop(read);
        assert_eq!(told(body).await.err().unwrap().message(), cut_off().message());
    }

    #[tokio::test]
    async fn what_is_sent_in_pieces_is_the_same_message() {
        let room = Room::new(1 << 30, Duration::MAX);
        for (count, size) in [(1, 2 << 20), (3000, 1000), (20, 100_000)] {
            let whole = answer(count, size);
            let (largest, sent) = told(large(whole.clone(), &room).await).await.unwrap();
            assert!(largest <= CHUNK + size + 64, "pieces of {largest} bytes");
            assert_eq!(sent, whole);
        }
        assert!(matches!(Large::of(answer(10, 10), &room).await, Ok(Ranged::Small(_))), "small ones are sent at once");
    }

    #[tokio::test]
    async fn answers_wait_until_those_before_them_are_taken() {
        let room = Arc::new(Room::new(3 << 20, Duration::MAX));
        let first = large(answer(2, 1 << 20), &room).await;
        let second = tokio::spawn({
            let room = room.clone();
            async move { large(answer(2, 1 << 20), &room).await.permit.is_some() }
        });
        // It has had every chance to run.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
    }
}
