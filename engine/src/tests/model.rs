//! The store as simply as it can be written: a list of all writes, replayed for every question.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::*;
use crate::tree::Span;
use crate::{Alarm, AlarmAction, AlarmKind, Error, Revision};

#[derive(Clone)]
pub(crate) struct Write {
    pub at: Revision,
    pub key: Bytes,
    /// `None`: deleted.
    pub kv: Option<KeyValue>,
    pub before: Option<KeyValue>,
}

#[derive(Clone)]
pub(crate) struct Model {
    pub revision: i64,
    pub compacted: i64,
    pub writes: Vec<Write>,
    /// Granted and remaining seconds.
    pub leases: BTreeMap<i64, (i64, i64)>,
    pub alarms: BTreeSet<Alarm>,
    sub: u32,
}

impl Model {
    pub fn new() -> Model {
        Model {
            revision: 1,
            compacted: -1,
            writes: Vec::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            sub: 0,
        }
    }

    pub fn state(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state = BTreeMap::new();
        for write in self.writes.iter().take_while(|write| write.at.main <= revision) {
            match &write.kv {
                Some(kv) => state.insert(write.key.clone(), kv.clone()),
                None => state.remove(&write.key),
            };
        }
        state
    }

    fn now(&self) -> BTreeMap<Bytes, KeyValue> {
        self.state(i64::MAX)
    }

    fn find(&self, range: &KeyRange) -> Vec<KeyValue> {
        self.now().into_values().filter(|kv| Span::from(range).contains(&kv.key)).collect()
    }

    pub fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        self.now().into_values().filter(|kv| kv.lease == lease).map(|kv| kv.key).collect()
    }

    fn write(&mut self, key: &Bytes, kv: Option<KeyValue>) -> Option<KeyValue> {
        let before = self.now().remove(key);
        let at = Revision { main: self.revision + 1, sub: self.sub };
        self.sub += 1;
        // Watches are told what was before the whole transaction.
        let created = kv.as_ref().is_some_and(|kv| kv.create_revision == at.main);
        let told = self.state(self.revision).remove(key).filter(|_| !created);
        self.writes.push(Write { at, key: key.clone(), kv, before: told });
        before
    }

    /// Applies a command; a refused one changes nothing.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Error> {
        let mut next = self.clone();
        let mut outcome = next.change(command)?;
        next.revision += i64::from(next.sub > 0);
        next.sub = 0;
        match &mut outcome {
            Outcome::Put { revision, .. }
            | Outcome::DeleteRange { revision, .. }
            | Outcome::Txn { revision, .. }
            | Outcome::Compact { revision }
            | Outcome::LeaseGrant { revision, .. }
            | Outcome::Auth { revision, .. }
            | Outcome::LeaseRevoke { revision }
            | Outcome::Alarm { revision, .. }
            | Outcome::LeaseCheckpoint { revision } => *revision = next.revision,
        }
        *self = next;
        Ok(outcome)
    }

    fn alarmed(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    fn change(&mut self, command: &Command) -> Result<Outcome, Error> {
        let is_data = !matches!(command, Command::Alarm { .. } | Command::LeaseCheckpoint { .. });
        if is_data && self.alarmed(AlarmKind::Corrupt) {
            return Err(Error::Corrupt);
        }
        // A put deep in either branch shows in the text as well as anywhere.
        let adds = match command {
            Command::Txn(txn) => format!("{txn:?}").contains("Put(Put {"),
            command => matches!(command, Command::Put(_) | Command::LeaseGrant { .. }),
        };
        if adds && self.alarmed(AlarmKind::NoSpace) {
            return Err(Error::NoSpace);
        }
        Ok(match command {
            Command::Put(put) => Outcome::Put { revision: 0, prev_kv: self.put(put)? },
            Command::DeleteRange(delete) => {
                let (deleted, prev_kvs) = self.delete(delete);
                Outcome::DeleteRange { revision: 0, deleted, prev_kvs }
            }
            Command::Txn(txn) => {
                let before = self.clone();
                Outcome::Txn { revision: 0, response: self.txn(txn, &before)? }
            }
            Command::Compact { revision } if *revision <= self.compacted => return Err(Error::Compacted),
            Command::Compact { revision } if *revision > self.revision => return Err(Error::FutureRevision),
            Command::Compact { revision } => {
                self.compacted = *revision;
                Outcome::Compact { revision: 0 }
            }
            Command::LeaseGrant { id, .. } if self.leases.contains_key(id) => return Err(Error::LeaseExists),
            &Command::LeaseGrant { id, ttl } => {
                self.leases.insert(id, (ttl, 0));
                Outcome::LeaseGrant { revision: 0, id, ttl }
            }
            Command::LeaseRevoke { id } => {
                self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
                for key in self.keys_of(*id) {
                    self.write(&key, None);
                }
                Outcome::LeaseRevoke { revision: 0 }
            }
            // They change no key; `tests/auth.rs` holds them.
            Command::Auth(_) | Command::Asked(_) => panic!("{command:?} is not in the model"),
            &Command::Alarm { action, member, alarm } => {
                let alarm = Alarm { kind: alarm, member };
                let known = match action {
                    AlarmAction::Activate => {
                        self.alarms.insert(alarm);
                        true
                    }
                    AlarmAction::Deactivate => self.alarms.remove(&alarm),
                };
                Outcome::Alarm { revision: 0, alarms: known.then_some(alarm).into_iter().collect() }
            }
            Command::LeaseCheckpoint { leases } => {
                for (id, remaining) in leases {
                    if let Some(lease) = self.leases.get_mut(id) {
                        lease.1 = *remaining;
                    }
                }
                Outcome::LeaseCheckpoint { revision: 0 }
            }
        })
    }

    fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, Error> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        let old = self.now().remove(&put.key);
        if (put.ignore_value || put.ignore_lease) && old.is_none() {
            return Err(Error::KeyNotFound);
        }
        let main = self.revision + 1;
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            lease: put.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if put.ignore_value {
                kv.value = old.value.clone();
            }
            if put.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.write(&put.key, Some(kv));
        Ok(old.filter(|_| put.prev_kv))
    }

    fn delete(&mut self, delete: &DeleteRange) -> (i64, Vec<KeyValue>) {
        let found = self.find(&delete.range);
        for kv in &found {
            self.write(&kv.key, None);
        }
        (found.len() as i64, if delete.prev_kv { found } else { Vec::new() })
    }

    fn txn(&mut self, txn: &Txn, before: &Model) -> Result<TxnResponse, Error> {
        let succeeded = txn.compares.iter().all(|compare| before.compare(compare));
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            responses.push(match op {
                Op::Put(put) => OpResponse::Put { prev_kv: self.put(put)? },
                Op::DeleteRange(delete) => {
                    let (deleted, prev_kvs) = self.delete(delete);
                    OpResponse::DeleteRange { deleted, prev_kvs }
                }
                // The revision that the transaction will have is not there yet when reads are checked.
                Op::Range(request) if request.revision > before.revision => return Err(Error::FutureRevision),
                Op::Range(request) if request.revision < 0 && request.revision < before.compacted => {
                    return Err(Error::Compacted);
                }
                Op::Range(request) => OpResponse::Range(self.range(request)?),
                Op::Txn(nested) => OpResponse::Txn(self.txn(nested, before)?),
            });
        }
        Ok(TxnResponse { succeeded, responses })
    }

    fn compare(&self, compare: &Compare) -> bool {
        let holds = |kv: &KeyValue| {
            let ordering = match &compare.target {
                CompareTarget::Version(version) => kv.version.cmp(version),
                CompareTarget::CreateRevision(revision) => kv.create_revision.cmp(revision),
                CompareTarget::ModRevision(revision) => kv.mod_revision.cmp(revision),
                CompareTarget::Value(value) => kv.value.cmp(value),
                CompareTarget::Lease(lease) => kv.lease.cmp(lease),
            };
            match compare.result {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
            }
        };
        let found = self.find(&compare.range);
        match (&compare.target, found.is_empty()) {
            (CompareTarget::Value(_), true) => false,
            (_, true) => holds(&KeyValue::default()),
            (_, false) => found.iter().all(holds),
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let current = self.revision + i64::from(self.sub > 0);
        let at = if request.revision <= 0 { current } else { request.revision };
        if at > current {
            return Err(Error::FutureRevision);
        }
        if at < self.compacted {
            return Err(Error::Compacted);
        }
        let span = Span::from(&request.range);
        let mut kvs: Vec<KeyValue> = self.state(at).into_values().filter(|kv| span.contains(&kv.key)).collect();
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { count, ..RangeResponse::default() });
        }
        let RangeRequest { min_mod_revision, max_mod_revision, min_create_revision, max_create_revision, .. } =
            *request;
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let filters = [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision];
        if filters == [0; 4] && request.sort_order == SortOrder::None {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|kv| {
            (min_mod_revision == 0 || kv.mod_revision >= min_mod_revision)
                && (max_mod_revision == 0 || kv.mod_revision <= max_mod_revision)
                && (min_create_revision == 0 || kv.create_revision >= min_create_revision)
                && (max_create_revision == 0 || kv.create_revision <= max_create_revision)
        });
        let order = |one: &KeyValue, other: &KeyValue| match request.sort_target {
            SortTarget::Key => one.key.cmp(&other.key),
            SortTarget::Version => one.version.cmp(&other.version),
            SortTarget::CreateRevision => one.create_revision.cmp(&other.create_revision),
            SortTarget::ModRevision => one.mod_revision.cmp(&other.mod_revision),
            SortTarget::Value => one.value.cmp(&other.value),
        };
        match request.sort_order {
            SortOrder::Descend => kvs.sort_by(|one, other| order(other, one)),
            _ => kvs.sort_by(order),
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if request.sort_target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { kvs, more, count })
    }
}
