use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kelson_engine::{
    Backend, MemoryBackend,
    backend::{Batch, Space},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    BEGIN, END, PIECE, READY, REFUSED, STORED,
    piece::{PIECE_SIZE, read},
    receiver::{OVERTAKEN, Receiving, receive},
    sender::{Ended, Outgoing, read_aside},
};
use crate::{
    peer::{
        MemoryStaging,
        frame::{self, Frame, Frames},
        message,
    },
    types::{LeaderId, LocalVote, LogId},
};

/// Position of the states that are sent.
const LAST: u64 = 7;
/// Pieces of the whole one.
const PIECES: u64 = 20;

fn head(term: u64, number: u64) -> Vec<u8> {
    let leader = LeaderId { term, node_id: 1 };
    message::encode_begin(&LocalVote::new(term, 1), &LogId::new(leader, LAST), (1, number))
}

/// A state of so many pieces, each of one value.
fn state() -> Arc<MemoryBackend> {
    let backend = MemoryBackend::new();
    for n in 0..PIECES {
        let mut batch = Batch::default();
        batch.put(Space::Revisions, &n.to_be_bytes(), Bytes::from(vec![n as u8; PIECE_SIZE]));
        backend.write(batch).unwrap();
    }
    Arc::new(backend)
}

fn all(backend: &dyn Backend) -> Vec<Bytes> {
    let mut all = Vec::new();
    read(backend, &mut |piece| {
        all.push(piece);
        true
    })
    .unwrap();
    all
}

fn outgoing(backend: Arc<MemoryBackend>) -> Outgoing {
    let (pieces, ready) = mpsc::channel(1);
    tokio::spawn(read_aside(backend, pieces));
    Outgoing::new(ready, u64::MAX)
}

/// A member that receives, as far as this matter is concerned.
#[derive(Default)]
struct Receiver {
    staging: Arc<MemoryStaging>,
    receiving: Arc<Receiving>,
    applied: Arc<AtomicU64>,
}

impl Receiver {
    fn receive(&self, stream: DuplexStream) -> JoinHandle<io::Result<bool>> {
        let (staging, receiving, applied) = (self.staging.clone(), self.receiving.clone(), self.applied.clone());
        let applied = move || applied.load(Ordering::Relaxed);
        tokio::spawn(async move { receive(Frames::new(stream), applied, staging, &receiving).await })
    }

    /// A stream that has brought these pieces, and stays open.
    async fn with(&self, head: &[u8], pieces: &[Bytes]) -> (Frames<DuplexStream>, JoinHandle<io::Result<bool>>) {
        let (near, far) = duplex(64 << 10);
        let received = self.receive(far);
        let mut near = Frames::new(near);
        frame::write(near.stream(), Frame::with(BEGIN, head)).await.unwrap();
        for (stored, piece) in (1_u64..).zip(pieces) {
            frame::write(near.stream(), Frame::with(PIECE, piece)).await.unwrap();
            while near.next().await.unwrap().unwrap().1 != message::encode_number(stored) {}
        }
        (near, received)
    }

    async fn sends(&self, sending: &mut Outgoing, head: &[u8]) -> io::Result<Ended> {
        let (near, far) = duplex(64 << 10);
        let _received = self.receive(far);
        sending.deliver(Frames::new(near), head).await
    }

    /// Starts from what it has kept.
    fn starts(&mut self) {
        self.receiving = Arc::default();
        self.applied.store(LAST, Ordering::Relaxed);
    }

    fn has(&self, state: &MemoryBackend) -> bool {
        self.staging.kept.lock().as_ref().is_some_and(|kept| all(&**kept) == all(state))
    }
}

/// Both ends of a stream that breaks when the first has written so many bytes.
fn cut(after: u64) -> (DuplexStream, DuplexStream) {
    let ((near, left), (right, far)) = (duplex(1 << 10), duplex(1 << 10));
    tokio::spawn(async move {
        let (from_near, mut to_near) = tokio::io::split(left);
        let (mut from_far, mut to_far) = tokio::io::split(right);
        let mut part = from_near.take(after);
        tokio::select! {
            _ = tokio::io::copy(&mut part, &mut to_far) => {}
            _ = tokio::io::copy(&mut from_far, &mut to_near) => {}
        }
    });
    (near, far)
}

#[tokio::test]
async fn a_state_that_is_kept_restarts_the_node_though_its_sender_is_gone() {
    let member = Receiver::default();
    let (mut sender, received) = member.with(&head(1, 0), &[Bytes::new()]).await;
    frame::write(sender.stream(), Frame::with(END, &0_u32.to_le_bytes())).await.unwrap();
    drop(sender);
    assert!(received.await.unwrap().unwrap());
    assert!(member.staging.kept.lock().is_some());
}

#[tokio::test]
async fn a_state_goes_on_where_its_stream_broke() {
    let (mut member, state) = (Receiver::default(), state());
    let mut sending = outgoing(state.clone());
    // None of these streams carries more than a part of it, and the last one ends without an answer.
    for _ in 0..PIECES {
        let (near, far) = cut(3 * PIECE_SIZE as u64 + 1000);
        let _received = member.receive(far);
        assert!(sending.deliver(Frames::new(near), &head(1, 0)).await.is_err());
        if member.has(&state) {
            break;
        }
    }
    assert!(member.has(&state));
    member.starts();
    let sent = sending.sent;
    assert_eq!(member.sends(&mut sending, &head(1, 0)).await.unwrap(), Ended::Taken);
    assert_eq!(sending.sent, sent);
}

#[tokio::test]
async fn a_state_that_is_kept_is_not_overwritten_before_the_member_starts_from_it() {
    let (member, kept) = (Receiver::default(), state());
    assert!(member.sends(&mut outgoing(kept.clone()), &head(1, 0)).await.is_err());
    assert!(member.sends(&mut outgoing(state()), &head(2, 1)).await.is_err());
    let (mut later, _received) = member.with(&head(3, 2), &[]).await;
    assert_eq!(later.next().await.unwrap(), None, "it takes nothing");
    assert!(member.has(&kept));
}

#[tokio::test]
async fn who_lost_what_it_had_gets_a_new_state() {
    let mut sending = outgoing(state());
    let (near, far) = duplex(64 << 10);
    // Says that it has stored the first piece, and nothing more.
    let first = tokio::spawn(async move {
        let mut far = Frames::new(far);
        assert_eq!(far.next().await.unwrap().unwrap().0, BEGIN);
        frame::write(far.stream(), Frame::with(READY, &message::encode_number(0))).await.unwrap();
        assert_eq!(far.next().await.unwrap().unwrap().0, PIECE);
        frame::write(far.stream(), Frame::with(STORED, &message::encode_number(1))).await.unwrap();
        far.stream().shutdown().await.unwrap();
        while let Ok(Some(_)) = far.next().await {}
    });
    assert!(sending.deliver(Frames::new(near), &head(1, 0)).await.is_err());
    first.await.unwrap();
    assert_eq!(sending.stored, 1);
    assert_eq!(Receiver::default().sends(&mut sending, &head(1, 0)).await.unwrap(), Ended::Forgotten);
}

#[tokio::test]
async fn a_sender_need_not_wait_for_one_that_fell_silent() {
    let (member, old, new) = (Receiver::default(), [Bytes::new(), Bytes::new()], state());
    let (mut silent, received) = member.with(&head(1, 0), &old).await;
    assert!(member.sends(&mut outgoing(new.clone()), &head(2, 0)).await.is_err());
    assert!(member.has(&new), "nothing of the other one's is in it");
    assert_eq!(received.await.unwrap().unwrap_err().to_string(), OVERTAKEN);
    assert_eq!(silent.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_leader_of_before_does_not_get_in_the_way() {
    let (member, new) = (Receiver::default(), state());
    let pieces = all(&*new);
    let (mut sender, received) = member.with(&head(2, 0), &pieces).await;
    let ended = member.sends(&mut outgoing(state()), &head(1, 0)).await.unwrap();
    assert_eq!(ended, Ended::Refused("a later leader sends its state".to_owned()));
    let crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
    frame::write(sender.stream(), Frame::with(END, &crc.to_le_bytes())).await.unwrap();
    assert!(received.await.unwrap().unwrap());
    assert!(member.has(&new));
}

#[tokio::test]
async fn who_has_started_from_a_state_says_so_again() {
    let member = Receiver::default();
    member.applied.store(LAST, Ordering::Relaxed);
    let mut sending = outgoing(state());
    assert_eq!(member.sends(&mut sending, &head(1, 0)).await.unwrap(), Ended::Taken);
    assert_eq!(sending.sent, 0);
}

#[tokio::test]
async fn a_state_that_came_wrong_is_not_kept() {
    let member = Receiver::default();
    let (mut sender, received) = member.with(&head(1, 0), &all(&*state())).await;
    frame::write(sender.stream(), Frame::with(END, &7_u32.to_le_bytes())).await.unwrap();
    assert_eq!(sender.next().await.unwrap().unwrap().0, REFUSED);
    assert!(received.await.unwrap().is_err());
    assert!(member.staging.kept.lock().is_none());
}

#[tokio::test]
async fn time_without_a_stream_is_not_made_up_for() {
    let (_pieces, ready) = mpsc::channel(1);
    let mut sending = Outgoing::new(ready, 10 << 20);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    for _ in 0..40 {
        sending.pace(64 << 10).await;
    }
    // 2.5 MiB, of which a tenth of a second's may go at once.
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
}
