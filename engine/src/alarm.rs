//! Alarms: conditions that an operator has to end. While one stands, commands that would make it worse are refused.
//!
//! Which command each of them refuses is etcd's choice: `NOSPACE` what adds to the store, `CORRUPT` every change of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Batch, Space, View};
use crate::command::{Command, Op, Txn};
use crate::engine::Engine;
use crate::{Error, Outcome};

/// Where alarms lie in [`Space::Meta`]: `a/`, the kind (1 byte), the member (8 bytes, big endian). The value is empty.
const PREFIX: &[u8] = b"a/";
const PREFIX_END: &[u8] = b"a0";

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// The store has reached its quota, or its disk is full.
    NoSpace,
    /// Members hold different data.
    Corrupt,
}

/// Whether an alarm is to be raised or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmAction {
    Activate,
    Deactivate,
}

/// An alarm that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub kind: AlarmKind,
    /// The member that it is about; 0 is as good as any.
    pub member: u64,
}

impl AlarmKind {
    /// Its number in the log and on disk.
    pub(crate) fn number(self) -> u8 {
        match self {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        }
    }

    pub(crate) fn of_number(number: u8) -> Option<AlarmKind> {
        match number {
            1 => Some(AlarmKind::NoSpace),
            2 => Some(AlarmKind::Corrupt),
            _ => None,
        }
    }
}

impl Alarm {
    pub(crate) fn to_key(self) -> [u8; 11] {
        let mut key = [0; 11];
        key[..2].copy_from_slice(PREFIX);
        key[2] = self.kind.number();
        key[3..].copy_from_slice(&self.member.to_be_bytes());
        key
    }

    fn from_key(key: &[u8]) -> Option<Alarm> {
        let (&kind, member) = key.strip_prefix(PREFIX)?.split_first()?;
        Some(Alarm { kind: AlarmKind::of_number(kind)?, member: u64::from_be_bytes(member.try_into().ok()?) })
    }
}

/// All that stand, in order of kind and member; readers share the list.
#[derive(Clone, Debug)]
pub(crate) struct Alarms {
    list: Arc<[Alarm]>,
}

impl Alarms {
    pub fn load(view: &(impl View + ?Sized)) -> Result<Alarms, Error> {
        let mut list = Vec::new();
        view.scan(Space::Meta, PREFIX, Some(PREFIX_END), &mut |key, _| {
            let alarm = Alarm::from_key(key).ok_or_else(|| Error::Storage(format!("unreadable alarm {key:?}")))?;
            list.push(alarm);
            Ok(true)
        })?;
        Ok(Alarms { list: list.into() })
    }

    pub fn list(&self) -> &Arc<[Alarm]> {
        &self.list
    }

    /// Whether any stands: the one question on the way of every command.
    pub fn any(&self) -> bool {
        !self.list.is_empty()
    }

    fn stands(&self, kind: AlarmKind) -> bool {
        self.list.iter().any(|alarm| alarm.kind == kind)
    }

    /// Refuses what must not happen now.
    pub fn check(&self, command: &Command) -> Result<(), Error> {
        if self.stands(AlarmKind::Corrupt) && changes(command) {
            return Err(Error::Corrupt);
        }
        if self.stands(AlarmKind::NoSpace) && adds(command) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    fn change(&mut self, action: AlarmAction, alarm: Alarm, batch: &mut Batch) -> bool {
        let place = self.list.binary_search(&alarm);
        let mut list = self.list.to_vec();
        match (action, place) {
            (AlarmAction::Activate, Err(place)) => {
                list.insert(place, alarm);
                batch.put(Space::Meta, &alarm.to_key(), Bytes::new());
            }
            (AlarmAction::Deactivate, Ok(place)) => {
                list.remove(place);
                batch.delete(Space::Meta, &alarm.to_key());
            }
            // Raising what stands already answers with it, ending what does not stand with nothing.
            (AlarmAction::Activate, Ok(_)) => return true,
            (AlarmAction::Deactivate, Err(_)) => return false,
        }
        self.list = list.into();
        true
    }
}

fn changes(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Txn(_)
        | Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. } => true,
        Command::Alarm { .. } | Command::LeaseCheckpoint { .. } | Command::Auth(_) => false,
        Command::Asked(asked) => changes(&asked.command),
    }
}

fn adds(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant { .. } => true,
        // Whichever branch is taken: the one that is not decides as well.
        Command::Txn(txn) => puts(txn),
        _ => false,
    }
}

fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => puts(nested),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}

impl Engine {
    /// Raises or ends an alarm; the answer holds the alarm unless it was to be ended and did not stand.
    pub(crate) fn alarm(&mut self, action: AlarmAction, alarm: Alarm) -> Outcome {
        let known = self.alarms.change(action, alarm, &mut self.batch);
        Outcome::Alarm { revision: self.revision, alarms: known.then_some(alarm).into_iter().collect() }
    }
}
