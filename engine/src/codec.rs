//! Commands as bytes, for the log.
//!
//! One version byte, then fields in order: a tag byte per choice, lengths and numbers as LEB128, flags as one byte.
//! Decoding takes keys and values as slices of the input, checks every bound and never trusts a count.

use bytes::Bytes;

use crate::Error;
use crate::alarm::{AlarmAction, AlarmKind};
use crate::auth::{Asked, Asker, AuthCommand};
use crate::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, RangeRequest, SortOrder,
    SortTarget, Txn,
};

const VERSION: u8 = 1;
/// Kinds of command; the others are numbered where they are encoded.
const AUTH: u8 = 16;
const ASKED: u8 = 17;

/// Transactions within transactions that [`Command::decode`] accepts.
pub const MAX_TXN_DEPTH: usize = 128;

impl Command {
    /// Appends the encoded command. A transaction nested deeper than [`MAX_TXN_DEPTH`] can be encoded but not decoded:
    /// the caller keeps to the limit.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.encode_kind(out);
    }

    fn encode_kind(&self, out: &mut Vec<u8>) {
        match self {
            Command::Put(put) => {
                out.push(1);
                encode_put(out, put);
            }
            Command::DeleteRange(delete) => {
                out.push(2);
                encode_delete(out, delete);
            }
            Command::Txn(txn) => {
                out.push(3);
                encode_txn(out, txn);
            }
            Command::Compact { revision } => {
                out.push(4);
                number(out, *revision);
            }
            Command::LeaseGrant { id, ttl } => {
                out.push(5);
                number(out, *id);
                number(out, *ttl);
            }
            Command::LeaseRevoke { id } => {
                out.push(6);
                number(out, *id);
            }
            Command::Alarm { action, member, alarm } => {
                out.push(7);
                out.push(u8::from(*action == AlarmAction::Deactivate));
                out.push(alarm.number());
                unsigned(out, *member);
            }
            Command::LeaseCheckpoint { leases } => {
                out.push(8);
                unsigned(out, leases.len() as u64);
                for (id, remaining) in leases {
                    number(out, *id);
                    number(out, *remaining);
                }
            }
            Command::Auth(change) => {
                out.push(AUTH);
                change.encode(out);
            }
            Command::Asked(asked) => {
                out.push(ASKED);
                asked.by.encode(out);
                asked.command.encode_kind(out);
            }
        }
    }

    /// A lower bound of the encoded length, close enough to reserve memory with.
    pub fn encoded_hint(&self) -> usize {
        fn ops(ops: &[Op]) -> usize {
            let each = ops.iter().map(|op| match op {
                Op::Put(put) => 5 + put.key.len() + put.value.len(),
                Op::Txn(nested) => txn(nested),
                Op::Range(RangeRequest { range, .. }) | Op::DeleteRange(DeleteRange { range, .. }) => {
                    4 + range.start.len() + range.end.len()
                }
            });
            each.sum()
        }
        fn txn(txn: &Txn) -> usize {
            let compares = txn.compares.iter().map(|compare| 5 + compare.range.start.len());
            3 + compares.sum::<usize>() + ops(&txn.success) + ops(&txn.failure)
        }
        match self {
            Command::Put(put) => 6 + put.key.len() + put.value.len(),
            Command::DeleteRange(delete) => 5 + delete.range.start.len() + delete.range.end.len(),
            Command::Txn(nested) => txn(nested),
            Command::LeaseCheckpoint { leases } => 3 + 2 * leases.len(),
            Command::Auth(change) => 2 + change.encoded_hint(),
            Command::Asked(asked) => asked.encoded_hint(),
            _ => 3,
        }
    }

    /// Reads exactly one command. Keys and values share memory with `bytes`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything that [`Command::encode`] of this version does not produce.
    pub fn decode(bytes: &Bytes) -> Result<Command, Error> {
        let mut input = Input::new(bytes);
        if input.byte()? != VERSION {
            return Err(Error::Malformed("unknown version"));
        }
        let command = match input.byte()? {
            ASKED => {
                let by = Asker::decode(&mut input)?;
                let kind = input.byte()?;
                Command::Asked(Box::new(Asked { by, command: input.command(kind)? }))
            }
            kind => input.command(kind)?,
        };
        input.end()?;
        Ok(command)
    }
}

pub(crate) fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn number(out: &mut Vec<u8>, value: i64) {
    unsigned(out, value as u64);
}

pub(crate) fn blob(out: &mut Vec<u8>, bytes: &[u8]) {
    unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn encode_range(out: &mut Vec<u8>, range: &KeyRange) {
    blob(out, &range.start);
    blob(out, &range.end);
}

pub(crate) fn flags<const N: usize>(bits: [bool; N]) -> u8 {
    bits.iter().enumerate().map(|(index, &bit)| u8::from(bit) << index).sum()
}

fn encode_put(out: &mut Vec<u8>, put: &Put) {
    out.push(flags([put.prev_kv, put.ignore_value, put.ignore_lease]));
    number(out, put.lease);
    blob(out, &put.key);
    blob(out, &put.value);
}

fn encode_delete(out: &mut Vec<u8>, delete: &DeleteRange) {
    out.push(flags([delete.prev_kv]));
    encode_range(out, &delete.range);
}

fn encode_request(out: &mut Vec<u8>, request: &RangeRequest) {
    encode_range(out, &request.range);
    out.push(flags([request.keys_only, request.count_only]));
    out.push(request.sort_order as u8);
    out.push(request.sort_target as u8);
    for value in [
        request.limit,
        request.revision,
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ] {
        number(out, value);
    }
}

fn encode_txn(out: &mut Vec<u8>, txn: &Txn) {
    unsigned(out, txn.compares.len() as u64);
    for compare in &txn.compares {
        encode_range(out, &compare.range);
        out.push(compare.result as u8);
        match &compare.target {
            CompareTarget::Version(value) => tagged(out, 0, *value),
            CompareTarget::CreateRevision(value) => tagged(out, 1, *value),
            CompareTarget::ModRevision(value) => tagged(out, 2, *value),
            CompareTarget::Lease(value) => tagged(out, 4, *value),
            CompareTarget::Value(value) => {
                out.push(3);
                blob(out, value);
            }
        }
    }
    for ops in [&txn.success, &txn.failure] {
        unsigned(out, ops.len() as u64);
        for op in ops {
            match op {
                Op::Range(request) => {
                    out.push(0);
                    encode_request(out, request);
                }
                Op::Put(put) => {
                    out.push(1);
                    encode_put(out, put);
                }
                Op::DeleteRange(delete) => {
                    out.push(2);
                    encode_delete(out, delete);
                }
                Op::Txn(nested) => {
                    out.push(3);
                    encode_txn(out, nested);
                }
            }
        }
    }
}

fn tagged(out: &mut Vec<u8>, tag: u8, value: i64) {
    out.push(tag);
    number(out, value);
}

pub(crate) struct Input<'a> {
    bytes: &'a Bytes,
    at: usize,
}

const CUT: Error = Error::Malformed("cut short");

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a Bytes) -> Input<'a> {
        Input { bytes, at: 0 }
    }

    /// There must be nothing left.
    pub(crate) fn end(&self) -> Result<(), Error> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(Error::Malformed("bytes behind the end")) }
    }

    /// A command of this kind that does not say who asks for it.
    fn command(&mut self, kind: u8) -> Result<Command, Error> {
        Ok(match kind {
            1 => Command::Put(self.put()?),
            2 => Command::DeleteRange(self.delete()?),
            3 => Command::Txn(self.txn(MAX_TXN_DEPTH)?),
            4 => Command::Compact { revision: self.number()? },
            5 => Command::LeaseGrant { id: self.number()?, ttl: self.number()? },
            6 => Command::LeaseRevoke { id: self.number()? },
            7 => self.alarm()?,
            8 => Command::LeaseCheckpoint { leases: self.leases()? },
            AUTH => Command::Auth(AuthCommand::decode(self)?),
            _ => return Err(Error::Malformed("unknown command")),
        })
    }

    pub(crate) fn text(&mut self) -> Result<String, Error> {
        String::from_utf8(self.blob()?.into()).map_err(|_| Error::Malformed("text is not UTF-8"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        let byte = *self.bytes.get(self.at).ok_or(CUT)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Malformed("number too long"))
    }

    pub(crate) fn number(&mut self) -> Result<i64, Error> {
        Ok(self.unsigned()? as i64)
    }

    pub(crate) fn blob(&mut self) -> Result<Bytes, Error> {
        let length = usize::try_from(self.unsigned()?).map_err(|_| CUT)?;
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len()).ok_or(CUT)?;
        let blob = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(blob)
    }

    pub(crate) fn flags<const N: usize>(&mut self) -> Result<[bool; N], Error> {
        let byte = self.byte()?;
        if u32::from(byte) >> N != 0 {
            return Err(Error::Malformed("unknown flag"));
        }
        Ok(std::array::from_fn(|index| byte >> index & 1 == 1))
    }

    /// A count of things that take at least one byte each.
    pub(crate) fn count(&mut self) -> Result<usize, Error> {
        let count = usize::try_from(self.unsigned()?).map_err(|_| CUT)?;
        if count > self.bytes.len() - self.at { Err(CUT) } else { Ok(count) }
    }

    fn alarm(&mut self) -> Result<Command, Error> {
        let action = match self.byte()? {
            0 => AlarmAction::Activate,
            1 => AlarmAction::Deactivate,
            _ => return Err(Error::Malformed("unknown alarm action")),
        };
        let alarm = AlarmKind::of_number(self.byte()?).ok_or(Error::Malformed("unknown alarm"))?;
        Ok(Command::Alarm { action, member: self.unsigned()?, alarm })
    }

    fn leases(&mut self) -> Result<Vec<(i64, i64)>, Error> {
        (0..self.count()?).map(|_| Ok((self.number()?, self.number()?))).collect()
    }

    pub(crate) fn range(&mut self) -> Result<KeyRange, Error> {
        Ok(KeyRange { start: self.blob()?, end: self.blob()? })
    }

    fn put(&mut self) -> Result<Put, Error> {
        let [prev_kv, ignore_value, ignore_lease] = self.flags()?;
        let lease = self.number()?;
        Ok(Put { key: self.blob()?, value: self.blob()?, lease, prev_kv, ignore_value, ignore_lease })
    }

    fn delete(&mut self) -> Result<DeleteRange, Error> {
        let [prev_kv] = self.flags()?;
        Ok(DeleteRange { range: self.range()?, prev_kv })
    }

    fn request(&mut self) -> Result<RangeRequest, Error> {
        let range = self.range()?;
        let [keys_only, count_only] = self.flags()?;
        let sort_order = match self.byte()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => return Err(Error::Malformed("unknown sort order")),
        };
        let sort_target = match self.byte()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::CreateRevision,
            3 => SortTarget::ModRevision,
            4 => SortTarget::Value,
            _ => return Err(Error::Malformed("unknown sort target")),
        };
        Ok(RangeRequest {
            range,
            keys_only,
            count_only,
            sort_order,
            sort_target,
            limit: self.number()?,
            revision: self.number()?,
            min_mod_revision: self.number()?,
            max_mod_revision: self.number()?,
            min_create_revision: self.number()?,
            max_create_revision: self.number()?,
        })
    }

    fn compare(&mut self) -> Result<Compare, Error> {
        let range = self.range()?;
        let result = match self.byte()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            _ => return Err(Error::Malformed("unknown comparison")),
        };
        let target = match self.byte()? {
            0 => CompareTarget::Version(self.number()?),
            1 => CompareTarget::CreateRevision(self.number()?),
            2 => CompareTarget::ModRevision(self.number()?),
            3 => CompareTarget::Value(self.blob()?),
            4 => CompareTarget::Lease(self.number()?),
            _ => return Err(Error::Malformed("unknown compare target")),
        };
        Ok(Compare { range, result, target })
    }

    fn txn(&mut self, depth: usize) -> Result<Txn, Error> {
        let depth = depth.checked_sub(1).ok_or(Error::Malformed("transactions nested too deep"))?;
        let compares = (0..self.count()?).map(|_| self.compare()).collect::<Result<_, _>>()?;
        let success = self.ops(depth)?;
        Ok(Txn { compares, success, failure: self.ops(depth)? })
    }

    fn ops(&mut self, depth: usize) -> Result<Vec<Op>, Error> {
        let op = |input: &mut Self| {
            Ok(match input.byte()? {
                0 => Op::Range(input.request()?),
                1 => Op::Put(input.put()?),
                2 => Op::DeleteRange(input.delete()?),
                3 => Op::Txn(input.txn(depth)?),
                _ => return Err(Error::Malformed("unknown operation")),
            })
        };
        (0..self.count()?).map(|_| op(self)).collect()
    }
}
