//! Leases: many are granted, then kept alive over a few streams, as client libraries do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kelson_wire::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
};

use crate::connection::{Connection, Method};
use crate::data::scatter;
use crate::drive::{Call, Lane, Load, Outcome, Source};
use crate::error::Error;
use crate::fleet::{Fleet, Tick};
use crate::frame::{Keep, frame};
use crate::source::decode;

/// The id of the first lease; the others follow.
const FIRST: i64 = 1 << 40;

fn id(number: u64) -> i64 {
    FIRST + i64::try_from(number).unwrap_or(0)
}

/// Grants lease `n` by request `n`.
#[derive(Clone, Copy)]
pub struct Grant {
    /// Seconds to live.
    pub ttl: i64,
}

impl Source for Grant {
    fn next(&mut self, number: u64, _due: Instant) -> Call {
        let request = LeaseGrantRequest { ttl: self.ttl, id: id(number) };
        Call { method: Method::LeaseGrant, framed: frame(&request), keep: Keep::Whole }
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        let answer: LeaseGrantResponse = decode(message)?;
        match answer.ttl >= self.ttl {
            true => Ok(()),
            false => Err(Error::Answer(format!("a lease of {} s was granted for {} s", self.ttl, answer.ttl))),
        }
    }
}

/// Revokes lease `n` by request `n`.
#[derive(Clone, Copy)]
pub struct Revoke;

impl Source for Revoke {
    fn next(&mut self, number: u64, _due: Instant) -> Call {
        Call { method: Method::LeaseRevoke, framed: frame(&LeaseRevokeRequest { id: id(number) }), keep: Keep::Whole }
    }

    fn answered(&mut self, _message: Bytes) -> Result<(), Error> {
        Ok(())
    }
}

/// Keep-alives.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// Leases that were granted, numbered from 0; at least one.
    pub leases: u64,
    /// Streams, spread evenly over the fleet's connections.
    pub streams: usize,
    /// Keep-alives on each stream that wait for their answers; at least one.
    pub in_flight: usize,
}

impl Fleet {
    /// Keeps random leases alive in closed loops, as [`Fleet::run`] does for other requests. Blocks.
    ///
    /// # Errors
    /// As [`Fleet::run`]; a lease that is not there is one.
    pub fn keep_alive(&self, load: Load, keep: KeepAlive, tick: Tick<'_>) -> Result<Outcome, Error> {
        let (outcome, _) = self.gather(load, 0..keep.streams, tick, move |lane, connection, _| async move {
            stream(&lane, connection, keep).await
        })?;
        Ok(outcome)
    }
}

/// The keep-alives of one stream that wait for their answers, which come in the order of the requests.
struct Waiting {
    requests: VecDeque<(i64, Duration)>,
    /// Whether the run has more.
    more: bool,
}

impl Waiting {
    /// As many keep-alives as there is room for, framed one behind the other.
    async fn fill(&mut self, lane: &Lane, keep: KeepAlive) -> Bytes {
        let mut framed = BytesMut::new();
        while self.more && self.requests.len() < keep.in_flight.max(1) {
            match lane.take().await {
                Some((number, due)) => {
                    let id = id(scatter(number) % keep.leases.max(1));
                    framed.extend_from_slice(&frame(&LeaseKeepAliveRequest { id }));
                    self.requests.push_back((id, due));
                }
                None => self.more = false,
            }
        }
        framed.freeze()
    }

    fn answered(&mut self, message: Bytes, lane: &Lane) -> Result<(), Error> {
        let answer: LeaseKeepAliveResponse = decode(message)?;
        let Some((lease, due)) = self.requests.pop_front() else {
            return Err(Error::Answer(format!("lease {} was answered once more", answer.id)));
        };
        if answer.id != lease || answer.ttl <= 0 {
            return Err(Error::Answer(format!("lease {lease} was answered as {} with {} s", answer.id, answer.ttl)));
        }
        lane.note(due, lane.shared.began.elapsed(), None);
        Ok(())
    }
}

async fn stream(lane: &Lane, mut connection: Connection, keep: KeepAlive) -> Result<(), Error> {
    let mut waiting = Waiting { requests: VecDeque::new(), more: true };
    let first = waiting.fill(lane, keep).await;
    if first.is_empty() {
        return Ok(());
    }
    let (mut sending, mut receiving) = connection.stream(Method::LeaseKeepAlive, first).await?;
    while !waiting.requests.is_empty() {
        let Some(message) = receiving.next().await? else {
            return Err(Error::Answer("the server ended a keep-alive stream".into()));
        };
        waiting.answered(message, lane)?;
        while let Some(message) = receiving.here() {
            waiting.answered(message, lane)?;
        }
        let framed = waiting.fill(lane, keep).await;
        if !framed.is_empty() {
            sending.send(framed)?;
        }
    }
    sending.finish();
    Ok(())
}
