//! Bytes of the records in the log: `version (1) | crc32 of the rest (4, little endian) | body`.
//!
//! Integers are little endian, strings and lists carry a 32-bit length in front. An entry's body is
//! `term (8) | node (8) | index (8) | kind (1) | payload`, the payload of a batch being what [`Batch`] encoded. A batch that
//! another member than the leader proposed has `node (8) | life (8) | number (8)` in front of that: its [`Origin`].
//!
//! Version 1 knew no batches of other members, and no learners by their own wish. It is still read; a record is written
//! with the lowest version that can hold it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EntryPayload, entry::RaftEntry};

use crate::{
    batch::{Batch, Origin},
    log::disk::Record,
    types::{LeaderId, LocalVote, LogEntry, LogId, Membership, Peer, StoredMembership},
};

/// The newest version of records that this build reads.
pub(crate) const VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;
const HEADER: usize = 5;

const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;
const FORWARDED: u8 = 3;

/// Bytes that an entry's record adds to its payload.
pub(crate) const ENTRY_OVERHEAD: usize = HEADER + 49;

/// Identity of the member that a log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: u64,
    pub(crate) node: u64,
}

/// The record of an entry. Commands are not copied: they are its second part as they are.
pub(crate) fn entry_record(entry: &LogEntry) -> Record {
    let mut head = start(ENTRY_OVERHEAD);
    put_log_id(&mut head, &entry.log_id());
    let payload = match &entry.payload {
        EntryPayload::Blank => {
            head.push(BLANK);
            Bytes::new()
        }
        EntryPayload::Normal(batch) => {
            match batch.origin() {
                None => head.push(COMMANDS),
                Some(origin) => {
                    head[0] = VERSION;
                    head.push(FORWARDED);
                    put_origin(&mut head, origin);
                }
            }
            batch.encoded().clone()
        }
        EntryPayload::Membership(membership) => {
            head[0] = VERSION;
            head.push(MEMBERSHIP);
            put_membership(&mut head, membership);
            Bytes::new()
        }
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[HEADER..]);
    crc.update(&payload);
    head[1..HEADER].copy_from_slice(&crc.finalize().to_le_bytes());
    Record { head, payload }
}

/// The same in one piece.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn encode_entry(entry: &LogEntry) -> Vec<u8> {
    entry_record(entry).to_bytes().to_vec()
}

pub(crate) fn decode_entry(record: &Bytes) -> Result<LogEntry, String> {
    let mut body = open(record)?;
    let log_id = body.log_id()?;
    let payload = match body.u8()? {
        BLANK => EntryPayload::Blank,
        COMMANDS => EntryPayload::Normal(Batch::from_log(body.rest())),
        FORWARDED => {
            let origin = body.origin()?;
            EntryPayload::Normal(Batch::forwarded(body.rest(), origin))
        }
        MEMBERSHIP => EntryPayload::Membership(body.membership()?),
        kind => return Err(format!("unknown kind of entry {kind}")),
    };
    body.end().map(|()| LogEntry { log_id, payload })
}

pub(crate) fn encode_vote(vote: &LocalVote) -> Vec<u8> {
    let mut out = start(HEADER + 17);
    put_u64(&mut out, vote.leader_id.term);
    put_u64(&mut out, vote.leader_id.node_id);
    out.push(u8::from(vote.committed));
    seal(out)
}

pub(crate) fn decode_vote(record: &Bytes) -> Result<LocalVote, String> {
    let mut body = open(record)?;
    let (term, node) = (body.u64()?, body.u64()?);
    let vote = match body.u8()? {
        0 => LocalVote::new(term, node),
        1 => LocalVote::new_committed(term, node),
        other => return Err(format!("a vote is committed or not, never {other}")),
    };
    body.end().map(|()| vote)
}

pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    let mut out = start(HEADER + 24);
    put_log_id(&mut out, id);
    seal(out)
}

pub(crate) fn decode_log_id(record: &Bytes) -> Result<LogId, String> {
    let mut body = open(record)?;
    let id = body.log_id()?;
    body.end().map(|()| id)
}

pub(crate) fn encode_identity(identity: Identity) -> Vec<u8> {
    let mut out = start(HEADER + 16);
    put_u64(&mut out, identity.cluster);
    put_u64(&mut out, identity.node);
    seal(out)
}

pub(crate) fn decode_identity(record: &Bytes) -> Result<Identity, String> {
    let mut body = open(record)?;
    let identity = Identity { cluster: body.u64()?, node: body.u64()? };
    body.end().map(|()| identity)
}

pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    let mut out = start(HEADER + 96);
    out[0] = VERSION;
    match stored.log_id() {
        None => out.push(0),
        Some(id) => {
            out.push(1);
            put_log_id(&mut out, id);
        }
    }
    put_membership(&mut out, stored.membership());
    seal(out)
}

pub(crate) fn decode_stored_membership(record: &Bytes) -> Result<StoredMembership, String> {
    let mut body = open(record)?;
    let log_id = match body.u8()? {
        0 => None,
        1 => Some(body.log_id()?),
        other => return Err(format!("a log id is there or not, never {other}")),
    };
    let stored = StoredMembership::new(log_id, body.membership()?);
    body.end().map(|()| stored)
}

fn start(capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.push(FIRST_VERSION);
    out.extend_from_slice(&[0; 4]);
    out
}

fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&out[HEADER..]).to_le_bytes();
    out[1..HEADER].copy_from_slice(&crc);
    out
}

/// A record with this body and the right checksum.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn sealed(body: &[u8]) -> Bytes {
    let mut record = start(HEADER + body.len());
    record.extend_from_slice(body);
    seal(record).into()
}

fn open(record: &Bytes) -> Result<Body, String> {
    if record.len() < HEADER {
        return Err(format!("{} bytes are too short for a record", record.len()));
    }
    if !(FIRST_VERSION..=VERSION).contains(&record[0]) {
        return Err(format!("record version {} where {VERSION} is the newest known", record[0]));
    }
    let body = record.slice(HEADER..);
    if record[1..HEADER] != crc32fast::hash(&body).to_le_bytes() {
        return Err("checksum mismatch".to_owned());
    }
    Ok(Body { left: body, version: record[0] })
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Lengths come from URLs, names and member counts, which never come near 32 bits.
pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_strings(out: &mut Vec<u8>, list: &[String]) {
    put_len(out, list.len());
    for text in list {
        put_str(out, text);
    }
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    put_u64(out, id.leader_id.term);
    put_u64(out, id.leader_id.node_id);
    put_u64(out, id.index);
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_len(out, configs.len());
    for voters in configs {
        put_len(out, voters.len());
        for id in voters {
            put_u64(out, *id);
        }
    }
    put_len(out, membership.nodes().count());
    for (id, peer) in membership.nodes() {
        put_u64(out, *id);
        put_str(out, &peer.name);
        put_strings(out, &peer.peer_urls);
        put_strings(out, &peer.client_urls);
        out.push(u8::from(peer.learner));
    }
}

pub(crate) fn put_origin(out: &mut Vec<u8>, origin: &Origin) {
    put_u64(out, origin.node);
    put_u64(out, origin.life);
    put_u64(out, origin.number);
}

/// What is left to read of a record whose checksum was right.
pub(crate) struct Body {
    left: Bytes,
    version: u8,
}

impl Body {
    /// A body without a record around it, of the newest version.
    pub(crate) fn of(left: Bytes) -> Self {
        Body { left, version: VERSION }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes, String> {
        if self.left.len() < len {
            return Err("record ends early".to_owned());
        }
        Ok(self.left.split_to(len))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        let mut raw = [0; 8];
        raw.copy_from_slice(&self.take(8)?);
        Ok(u64::from_le_bytes(raw))
    }

    /// A length; never more than what is left, because every element takes at least a byte.
    pub(crate) fn len(&mut self) -> Result<usize, String> {
        let mut raw = [0; 4];
        raw.copy_from_slice(&self.take(4)?);
        let len = u32::from_le_bytes(raw) as usize;
        if len > self.left.len() { Err("record ends early".to_owned()) } else { Ok(len) }
    }

    pub(crate) fn string(&mut self) -> Result<String, String> {
        let len = self.len()?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| "a name or URL is not UTF-8".to_owned())
    }

    pub(crate) fn strings(&mut self) -> Result<Vec<String>, String> {
        (0..self.len()?).map(|_| self.string()).collect()
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId, String> {
        let leader = LeaderId { term: self.u64()?, node_id: self.u64()? };
        Ok(LogId::new(leader, self.u64()?))
    }

    pub(crate) fn membership(&mut self) -> Result<Membership, String> {
        let mut configs = Vec::new();
        for _ in 0..self.len()? {
            configs.push((0..self.len()?).map(|_| self.u64()).collect::<Result<BTreeSet<u64>, String>>()?);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.len()? {
            let id = self.u64()?;
            let (name, peer_urls, client_urls) = (self.string()?, self.strings()?, self.strings()?);
            let learner = if self.version > FIRST_VERSION { self.u8()? == 1 } else { false };
            let peer = Peer { name, peer_urls, client_urls, learner };
            nodes.insert(id, peer);
        }
        Membership::new(configs, nodes).map_err(|e| e.to_string())
    }

    pub(crate) fn origin(&mut self) -> Result<Origin, String> {
        Ok(Origin { node: self.u64()?, life: self.u64()?, number: self.u64()? })
    }

    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.left)
    }

    pub(crate) fn end(&self) -> Result<(), String> {
        if self.left.is_empty() { Ok(()) } else { Err(format!("{} bytes too many in record", self.left.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id: node }, index)
    }

    fn membership() -> Membership {
        let peer = |n: u64| Peer {
            name: format!("m{n}"),
            peer_urls: vec![format!("http://10.0.0.{n}:2380")],
            client_urls: vec![format!("http://10.0.0.{n}:2379"), format!("http://[::{n}]:2379")],
            learner: n == 4,
        };
        let nodes: BTreeMap<u64, Peer> = (1..=4).map(|n| (n, peer(n))).collect();
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes).unwrap()
    }

    fn entries() -> Vec<LogEntry> {
        let batch = Batch::from_log(Bytes::from_static(b"some encoded commands"));
        let origin = Origin { node: 4, life: 5, number: 6 };
        let forwarded = Batch::forwarded(Bytes::from_static(b"another member's commands"), origin);
        let normal = EntryPayload::Normal;
        [EntryPayload::Blank, normal(batch), EntryPayload::Membership(membership()), normal(forwarded)]
            .into_iter()
            .map(|payload| LogEntry { log_id: id(3, 9, 77), payload })
            .collect()
    }

    #[test]
    fn everything_survives_the_round_trip() {
        for entry in entries() {
            let read = decode_entry(&encode_entry(&entry).into()).unwrap();
            assert_eq!(read, entry);
            let origin = |entry: &LogEntry| match &entry.payload {
                EntryPayload::Normal(batch) => batch.origin().copied(),
                _ => None,
            };
            assert_eq!(origin(&read), origin(&entry));
        }
        for vote in [LocalVote::new(7, 1), LocalVote::new_committed(8, 2)] {
            assert_eq!(decode_vote(&encode_vote(&vote).into()), Ok(vote));
        }
        assert_eq!(decode_log_id(&encode_log_id(&id(1, 2, 3)).into()), Ok(id(1, 2, 3)));
        let identity = Identity { cluster: 5, node: 6 };
        assert_eq!(decode_identity(&encode_identity(identity).into()), Ok(identity));
        for stored in [StoredMembership::new(Some(id(1, 1, 4)), membership()), StoredMembership::default()] {
            assert_eq!(decode_stored_membership(&encode_stored_membership(&stored).into()), Ok(stored));
        }
    }

    #[test]
    fn members_of_the_first_version_are_still_read() {
        let mut record = start(64);
        put_log_id(&mut record, &id(1, 1, 4));
        record.push(MEMBERSHIP);
        put_len(&mut record, 1);
        put_len(&mut record, 1);
        put_u64(&mut record, 7);
        put_len(&mut record, 1);
        put_u64(&mut record, 7);
        put_str(&mut record, "seven");
        put_strings(&mut record, &[]);
        put_strings(&mut record, &[]);
        let read = decode_entry(&seal(record).into()).unwrap();
        let EntryPayload::Membership(read) = read.payload else { panic!("{read:?}") };
        let expected = Peer { name: "seven".into(), ..Peer::default() };
        assert_eq!(read.nodes().collect::<Vec<_>>(), [(&7, &expected)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn one_flipped_bit_is_an_error(which in 0..4_usize, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut record = encode_entry(&entries()[which]);
            let at = at.index(record.len());
            record[at] ^= 1_u8 << bit;
            prop_assert!(decode_entry(&record.into()).is_err());
        }

        #[test]
        fn any_bytes_behind_a_right_checksum_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let record = sealed(&body);
            let _ = decode_entry(&record);
            let _ = decode_vote(&record);
            let _ = decode_stored_membership(&record);
        }
    }
}
