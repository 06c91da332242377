//! The bodies of what members say to each other.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::frame::Frame;
use crate::{
    Error,
    batch::Origin,
    codec::{self, Body, put_len, put_log_id, put_origin, put_str, put_strings, put_u64},
    membership::Change,
    types::{LeaderId, LocalVote, LogId, Types},
};

/// What is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Vote = 1,
    PreVote = 2,
    Append = 3,
    Transfer = 4,
    /// The position up to which a member must have applied for a linearizable read.
    Read = 5,
    Propose = 6,
    Renew = 7,
    Left = 8,
    Change = 9,
}

impl Kind {
    pub(crate) fn of(byte: u8) -> Option<Kind> {
        use Kind::{Append, Change, Left, PreVote, Propose, Read, Renew, Transfer, Vote};
        let all = [Vote, PreVote, Append, Transfer, Read, Propose, Renew, Left, Change];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

pub(crate) type Append = AppendEntriesRequest<Types>;
pub(crate) type Parsed<T> = Result<T, String>;

fn put_vote(out: &mut Vec<u8>, vote: &LocalVote) {
    put_u64(out, vote.leader_id.term);
    put_u64(out, vote.leader_id.node_id);
    out.push(u8::from(vote.committed));
}

fn vote(body: &mut Body) -> Parsed<LocalVote> {
    let (term, node) = (body.u64()?, body.u64()?);
    Ok(if body.u8()? == 1 { LocalVote::new_committed(term, node) } else { LocalVote::new(term, node) })
}

fn put_maybe(out: &mut Vec<u8>, id: Option<&LogId>) {
    match id {
        None => out.push(0),
        Some(id) => {
            out.push(1);
            put_log_id(out, id);
        }
    }
}

fn maybe(body: &mut Body) -> Parsed<Option<LogId>> {
    if body.u8()? == 0 { Ok(None) } else { body.log_id().map(Some) }
}

/// Entries travel as the records that the log holds, each with its length, version and checksum.
pub(crate) fn put_append(frame: &mut Frame, append: &Append) {
    let mut head = Vec::with_capacity(96);
    put_vote(&mut head, &append.vote);
    put_maybe(&mut head, append.prev_log_id.as_ref());
    put_maybe(&mut head, append.leader_commit.as_ref());
    put_len(&mut head, append.entries.len());
    frame.put(&head);
    for entry in &append.entries {
        let record = codec::entry_record(entry);
        frame.put(&((record.head.len() + record.payload.len()) as u32).to_le_bytes());
        frame.put(&record.head);
        frame.put_shared(&record.payload);
    }
}

pub(crate) fn append(body: Bytes) -> Parsed<Append> {
    let mut body = Body::of(body);
    let vote = vote(&mut body)?;
    let (prev_log_id, leader_commit) = (maybe(&mut body)?, maybe(&mut body)?);
    let count = body.len()?;
    let mut entries = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let length = body.len()?;
        entries.push(codec::decode_entry(&body.take(length)?)?);
    }
    body.end()?;
    Ok(Append { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn encode_appended(answer: &AppendEntriesResponse<Types>) -> Vec<u8> {
    let mut out = Vec::new();
    match answer {
        AppendEntriesResponse::Success => out.push(0),
        AppendEntriesResponse::PartialSuccess(id) => {
            out.push(1);
            put_maybe(&mut out, id.as_ref());
        }
        AppendEntriesResponse::Conflict => out.push(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.push(3);
            put_vote(&mut out, vote);
        }
    }
    out
}

pub(crate) fn appended(body: Bytes) -> Parsed<AppendEntriesResponse<Types>> {
    let mut body = Body::of(body);
    Ok(match body.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(maybe(&mut body)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(vote(&mut body)?),
        other => return Err(format!("unknown answer {other} to an append")),
    })
}

pub(crate) type Streamed = Result<Option<LogId>, StreamAppendError<Types>>;

pub(crate) fn encode_streamed(answer: &Streamed) -> Vec<u8> {
    let mut out = Vec::new();
    match answer {
        Ok(id) => {
            out.push(0);
            put_maybe(&mut out, id.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            out.push(1);
            put_log_id(&mut out, id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.push(2);
            put_vote(&mut out, vote);
        }
    }
    out
}

pub(crate) fn streamed(body: Bytes) -> Parsed<Streamed> {
    let mut body = Body::of(body);
    Ok(match body.u8()? {
        0 => Ok(maybe(&mut body)?),
        1 => Err(StreamAppendError::Conflict(body.log_id()?)),
        2 => Err(StreamAppendError::HigherVote(vote(&mut body)?)),
        other => return Err(format!("unknown answer {other} in a stream of appends")),
    })
}

pub(crate) fn encode_vote_request(request: &VoteRequest<Types>) -> Vec<u8> {
    let mut out = Vec::new();
    put_vote(&mut out, &request.vote);
    put_maybe(&mut out, request.last_log_id.as_ref());
    out.push(u8::from(request.leadership_transfer));
    out
}

pub(crate) fn vote_request(body: Bytes) -> Parsed<VoteRequest<Types>> {
    let mut body = Body::of(body);
    let mut request = VoteRequest::new(vote(&mut body)?, maybe(&mut body)?);
    request.leadership_transfer = body.u8()? == 1;
    Ok(request)
}

pub(crate) fn encode_vote_answer(answer: &VoteResponse<Types>) -> Vec<u8> {
    let mut out = Vec::new();
    put_vote(&mut out, &answer.vote);
    put_maybe(&mut out, answer.last_log_id.as_ref());
    out.push(u8::from(answer.vote_granted));
    out
}

pub(crate) fn vote_answer(body: Bytes) -> Parsed<VoteResponse<Types>> {
    let mut body = Body::of(body);
    let (vote, last) = (vote(&mut body)?, maybe(&mut body)?);
    Ok(VoteResponse::new(vote, last, body.u8()? == 1))
}

/// What a state begins with: a leader's vote and a position in its log, to be read by [`mark`], and what tells this one from
/// any other that a sender sends: its process's `life`, and a number in that.
pub(crate) fn encode_begin(vote: &LocalVote, last: &LogId, (life, number): (u64, u64)) -> Vec<u8> {
    let mut out = encode_mark(vote, Some(last));
    put_u64(&mut out, life);
    put_u64(&mut out, number);
    out
}

/// A leader's vote, and a position in its log.
pub(crate) fn encode_mark(vote: &LocalVote, last: Option<&LogId>) -> Vec<u8> {
    let mut out = Vec::new();
    put_vote(&mut out, vote);
    put_maybe(&mut out, last);
    out
}

pub(crate) fn mark(body: Bytes) -> Parsed<(LocalVote, Option<LogId>)> {
    let mut body = Body::of(body);
    Ok((vote(&mut body)?, maybe(&mut body)?))
}

/// Whom a leader wants to lead next: told to all, so that none of them holds on to the old lead.
pub(crate) fn encode_transfer(request: &TransferLeaderRequest<Types>) -> Vec<u8> {
    let mut out = encode_mark(request.from_leader(), request.last_log_id());
    put_u64(&mut out, *request.to_node_id());
    out
}

pub(crate) fn transfer(body: Bytes) -> Parsed<TransferLeaderRequest<Types>> {
    let mut body = Body::of(body);
    let (vote, last) = (vote(&mut body)?, maybe(&mut body)?);
    Ok(TransferLeaderRequest::new(vote, body.u64()?, last))
}

/// A batch for the leader to propose, if it still leads as it did.
pub(crate) fn put_propose(frame: &mut Frame, leader: LeaderId, origin: &Origin, batch: &Bytes) {
    let mut head = Vec::with_capacity(40);
    put_u64(&mut head, leader.term);
    put_u64(&mut head, leader.node_id);
    put_origin(&mut head, origin);
    frame.put(&head);
    frame.put_shared(batch);
}

pub(crate) fn propose(body: Bytes) -> Parsed<(LeaderId, Origin, Bytes)> {
    let mut body = Body::of(body);
    let leader = LeaderId { term: body.u64()?, node_id: body.u64()? };
    Ok((leader, body.origin()?, body.rest()))
}

pub(crate) fn encode_number(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

pub(crate) fn number(body: Bytes) -> Parsed<u64> {
    Body::of(body).u64()
}

pub(crate) fn encode_seconds(seconds: Option<i64>) -> Vec<u8> {
    seconds.map_or(Vec::new(), |seconds| seconds.to_le_bytes().to_vec())
}

pub(crate) fn seconds(body: Bytes) -> Parsed<Option<i64>> {
    if body.is_empty() { Ok(None) } else { Body::of(body).u64().map(|seconds| Some(seconds.cast_signed())) }
}

pub(crate) fn encode_change(change: &Change) -> Vec<u8> {
    let mut out = Vec::new();
    match change {
        Change::Add { id, peer_urls, learner } => {
            out.push(1);
            put_u64(&mut out, *id);
            put_strings(&mut out, peer_urls);
            out.push(u8::from(*learner));
        }
        Change::Promote { id } => {
            out.push(2);
            put_u64(&mut out, *id);
        }
        Change::Remove { id } => {
            out.push(3);
            put_u64(&mut out, *id);
        }
        Change::Update { id, peer_urls } => {
            out.push(4);
            put_u64(&mut out, *id);
            put_strings(&mut out, peer_urls);
        }
        Change::Publish { id, name, client_urls } => {
            out.push(5);
            put_u64(&mut out, *id);
            put_str(&mut out, name);
            put_strings(&mut out, client_urls);
        }
    }
    out
}

pub(crate) fn change(body: Bytes) -> Parsed<Change> {
    let mut body = Body::of(body);
    let kind = body.u8()?;
    let id = body.u64()?;
    Ok(match kind {
        1 => Change::Add { id, peer_urls: body.strings()?, learner: body.u8()? == 1 },
        2 => Change::Promote { id },
        3 => Change::Remove { id },
        4 => Change::Update { id, peer_urls: body.strings()? },
        5 => Change::Publish { id, name: body.string()?, client_urls: body.strings()? },
        other => return Err(format!("unknown change {other} of members")),
    })
}

/// Refusals that keep their meaning on the way; all others arrive as their text.
const REFUSALS: &[Error] = &[
    Error::NoLeader,
    Error::LeaderChanged,
    Error::Timeout,
    Error::TooManyRequests,
    Error::Stopped,
    Error::NoMember,
    Error::MemberExists,
    Error::PeerUrlExists,
    Error::NotEnoughStarted,
    Error::NotALearner,
    Error::LearnerNotReady,
    Error::TooManyLearners,
    Error::Unhealthy,
    Error::Removed,
];

pub(crate) fn encode_error(error: &Error) -> Vec<u8> {
    let known = REFUSALS.iter().position(|refusal| refusal == error);
    let mut out = vec![known.map_or(u8::MAX, |at| at as u8)];
    put_str(&mut out, &error.to_string());
    out
}

pub(crate) fn error(body: Bytes) -> Error {
    let mut body = Body::of(body);
    let known = body.u8().ok().and_then(|at| REFUSALS.get(usize::from(at)));
    known.cloned().unwrap_or_else(|| Error::Storage(body.string().unwrap_or_else(|why| why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refusals_keep_their_meaning() {
        for refusal in REFUSALS {
            assert_eq!(error(encode_error(refusal).into()), *refusal);
        }
        let other = Error::Storage("the disk is full".into());
        assert_eq!(error(encode_error(&other).into()), Error::Storage(other.to_string()));
    }

    #[test]
    fn changes_come_back_as_they_went() {
        let urls = || vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        for sent in [
            Change::Add { id: 1, peer_urls: urls(), learner: true },
            Change::Promote { id: 2 },
            Change::Remove { id: 3 },
            Change::Update { id: 4, peer_urls: urls() },
            Change::Publish { id: 5, name: "n".into(), client_urls: urls() },
        ] {
            assert_eq!(change(encode_change(&sent).into()), Ok(sent));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let body = Bytes::from(body);
            let _ = append(body.clone());
            let _ = appended(body.clone());
            let _ = streamed(body.clone());
            let _ = vote_request(body.clone());
            let _ = vote_answer(body.clone());
            let _ = mark(body.clone());
            let _ = transfer(body.clone());
            let _ = propose(body.clone());
            let _ = seconds(body.clone());
            let _ = change(body.clone());
            let _ = error(body);
        }
    }
}
