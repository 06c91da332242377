//! What each command does. Everything that can be refused is checked before the first change, as etcd does.

use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::Alarm;
use crate::auth::{Auth, AuthCommand};
use crate::backend::Space;
use crate::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyValue, Op, OpResponse, Outcome, Put, RangeRequest,
    Txn, TxnResponse,
};
use crate::engine::Engine;
use crate::event::Event;
use crate::history::{Change, Entry};
use crate::record::{self, Record};
use crate::snapshot::Records;
use crate::tree::Span;
use crate::{Error, Revision, auth, lease, range, reader};

impl Engine {
    pub(crate) fn execute(&mut self, command: &Command) -> Result<Outcome, Error> {
        let (asker, command) = command.asked();
        if self.alarms.any() {
            self.alarms.check(command)?;
        }
        if self.auth.enabled() {
            self.auth.check_command(asker, command, &self.shared.leases)?;
        }
        match command {
            Command::Put(put) => {
                self.check_put(put)?;
                let prev_kv = self.put(put)?;
                Ok(Outcome::Put { revision: self.end(), prev_kv })
            }
            Command::DeleteRange(delete) => {
                let (deleted, prev_kvs) = self.delete_range(delete)?;
                Ok(Outcome::DeleteRange { revision: self.end(), deleted, prev_kvs })
            }
            Command::Txn(txn) => {
                let mut path = Vec::new();
                self.choose(txn, &mut path)?;
                self.check_txn(txn, &mut path.iter())?;
                let response = self.run(txn, &mut path.iter())?;
                Ok(Outcome::Txn { revision: self.end(), response })
            }
            Command::Compact { revision } => {
                if *revision <= self.compacted {
                    return Err(Error::Compacted);
                }
                if *revision > self.revision {
                    return Err(Error::FutureRevision);
                }
                self.compacted = *revision;
                Ok(Outcome::Compact { revision: self.revision })
            }
            &Command::LeaseGrant { id, ttl } => {
                self.shared.leases.grant(id, ttl)?;
                self.batch.put(Space::Leases, &id.to_be_bytes(), lease::encode(ttl, 0));
                Ok(Outcome::LeaseGrant { revision: self.revision, id, ttl })
            }
            &Command::LeaseRevoke { id } => {
                for key in self.shared.leases.revoke(id)? {
                    self.delete(&key)?;
                }
                self.batch.delete(Space::Leases, &id.to_be_bytes());
                Ok(Outcome::LeaseRevoke { revision: self.end() })
            }
            &Command::Alarm { action, member, alarm } => Ok(self.alarm(action, Alarm { kind: alarm, member })),
            Command::LeaseCheckpoint { leases } => {
                for &(id, remaining) in leases {
                    if let Some(ttl) = self.shared.leases.checkpoint(id, remaining) {
                        self.batch.put(Space::Leases, &id.to_be_bytes(), lease::encode(ttl, remaining));
                    }
                }
                Ok(Outcome::LeaseCheckpoint { revision: self.revision })
            }
            Command::Auth(change) => self.change_auth(change),
            Command::Asked(_) => Err(Error::Malformed("a command asked for twice")),
        }
    }

    fn change_auth(&mut self, change: &AuthCommand) -> Result<Outcome, Error> {
        if let AuthCommand::Authenticate { user, prefix, revision } = change {
            self.auth.check_authenticate(user, *revision)?;
            let token: Arc<str> = format!("{prefix}.{}", self.index).into();
            self.shared.tokens.issue(&token, user.as_str().into());
            return Ok(Outcome::Auth { revision: self.revision, token: Some(token) });
        }
        // The readers have the last one. A copy shares its users and roles.
        let mut next = Auth::clone(&self.auth);
        let changed = next.apply(change)?;
        match change {
            AuthCommand::UserDelete { name } | AuthCommand::UserSetPassword { name, .. } => {
                self.shared.tokens.revoke(name);
            }
            AuthCommand::Disable => self.shared.tokens.clear(),
            _ => {}
        }
        if changed.any {
            auth::store(&next, &changed, &mut self.batch);
            self.auth = Arc::new(next);
        }
        Ok(Outcome::Auth { revision: self.revision, token: None })
    }

    /// Ends the transaction and returns the store's revision: one more if there was a write.
    fn end(&mut self) -> i64 {
        self.revision += i64::from(std::mem::take(&mut self.sub) > 0);
        self.revision
    }

    /// The revision as seen within the transaction.
    fn current(&self) -> i64 {
        self.revision + i64::from(self.sub > 0)
    }

    /// The key's newest version with its value.
    fn load(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        match self.tree.get(key).filter(|entry| entry.is_live()) {
            Some(entry) => self.load_at(entry.newest().at).map(Some),
            None => Ok(None),
        }
    }

    fn load_at(&self, at: Revision) -> Result<KeyValue, Error> {
        record::key_value(at, &self.record(at)?.ok_or_else(|| lost(at.main))?)
    }

    fn check_put(&self, put: &Put) -> Result<(), Error> {
        if put.lease != 0 && !self.shared.leases.exists(put.lease) {
            return Err(Error::LeaseNotFound);
        }
        let exists = || self.tree.get(&put.key).is_some_and(Entry::is_live);
        if (put.ignore_value || put.ignore_lease) && !exists() { Err(Error::KeyNotFound) } else { Ok(()) }
    }

    fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, Error> {
        let old = if put.prev_kv || put.ignore_value { self.load(&put.key)? } else { None };
        let lease = match put.ignore_lease {
            true => self.tree.get(&put.key).map_or(0, |entry| entry.lease),
            false => put.lease,
        };
        // Missing only if the same transaction has deleted it, which the API does not let through.
        let kept = old.as_ref().filter(|_| put.ignore_value).map(|old| old.value.clone());
        let value = if put.ignore_value { kept.unwrap_or_default() } else { put.value.clone() };

        let at = self.next();
        let written = self.tree.write(&put.key, Change::Put { at, lease, length: value.len() as u32 });
        let before = written.before.map_or(0, |before| before.lease);
        if before != lease {
            if before != 0 {
                self.shared.leases.detach(before, &put.key);
            }
            if lease != 0 {
                self.shared.leases.attach(lease, &put.key);
            }
        }
        let previous = self.before(at, written.before.map(|before| before.at))?;
        self.log(
            at,
            Record { create: written.create, version: written.version, lease, previous, key: &put.key, value: &value },
        )?;
        Ok(old.filter(|_| put.prev_kv))
    }

    /// Deletes a key if it exists.
    fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        if !self.tree.get(key).is_some_and(Entry::is_live) {
            return Ok(false);
        }
        let at = self.next();
        let written = self.tree.write(key, Change::Delete { at });
        if let Some(before) = written.before.filter(|before| before.lease != 0) {
            self.shared.leases.detach(before.lease, key);
        }
        let previous = self.before(at, written.before.map(|before| before.at))?;
        self.log(at, Record { create: 0, version: 0, lease: 0, previous, key, value: b"" })?;
        Ok(true)
    }

    fn next(&self) -> Revision {
        Revision { main: self.revision + 1, sub: self.sub }
    }

    /// What a watch is told that a key was before: its version before the transaction, as in etcd, and not one that
    /// the transaction itself has written and writes over.
    fn before(&self, at: Revision, mut previous: Option<Revision>) -> Result<Option<Revision>, Error> {
        while let Some(own) = previous.filter(|previous| previous.main == at.main) {
            previous = Record::decode(&self.record(own)?.ok_or_else(|| lost(own.main))?)?.previous;
        }
        Ok(previous)
    }

    /// Notes a write for the backend and the watchers.
    fn log(&mut self, at: Revision, record: Record) -> Result<(), Error> {
        let bytes = record.encode();
        self.events.push(Arc::new(Event::of(at, &bytes)?));
        self.pending.push((at, bytes));
        self.sub += 1;
        Ok(())
    }

    fn delete_range(&mut self, delete: &DeleteRange) -> Result<(i64, Vec<KeyValue>), Error> {
        let mut victims: Vec<(Bytes, Revision)> = Vec::new();
        self.tree.visit(Span::from(&delete.range), &mut |key, entry| {
            if entry.is_live() {
                victims.push((Bytes::copy_from_slice(key), entry.newest().at));
            }
            true
        });
        let mut prev_kvs = Vec::new();
        if delete.prev_kv {
            let at: Vec<Revision> = victims.iter().map(|(_, at)| *at).collect();
            for (&at, bytes) in at.iter().zip(self.records(&at)?) {
                prev_kvs.push(record::key_value(at, &bytes.ok_or_else(|| lost(at.main))?)?);
            }
        }
        for (key, _) in &victims {
            self.delete(key)?;
        }
        Ok((victims.len() as i64, prev_kvs))
    }

    /// Evaluates the compares of a transaction and of those nested in the branch taken, all on the state before it
    /// (as etcd does), and notes which branch each takes.
    fn choose(&self, txn: &Txn, path: &mut Vec<bool>) -> Result<(), Error> {
        let mut holds = true;
        for compare in &txn.compares {
            if !self.compare(compare)? {
                holds = false;
                break;
            }
        }
        path.push(holds);
        for op in if holds { &txn.success } else { &txn.failure } {
            if let Op::Txn(nested) = op {
                self.choose(nested, path)?;
            }
        }
        Ok(())
    }

    fn check_txn(&self, txn: &Txn, path: &mut std::slice::Iter<bool>) -> Result<(), Error> {
        for op in branch(txn, path) {
            match op {
                Op::Put(put) => self.check_put(put)?,
                // Unlike in a read by itself, below zero is no name for the present here.
                Op::Range(request) if request.revision < 0 && request.revision < self.compacted => {
                    return Err(Error::Compacted);
                }
                Op::Range(request) => _ = reader::read_revision(request, self.revision, self.compacted)?,
                Op::Txn(nested) => self.check_txn(nested, path)?,
                Op::DeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, txn: &Txn, path: &mut std::slice::Iter<bool>) -> Result<TxnResponse, Error> {
        let succeeded = path.as_slice().first() == Some(&true);
        let ops = branch(txn, path);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                Op::Range(request) => OpResponse::Range(self.range(request)?),
                Op::Put(put) => OpResponse::Put { prev_kv: self.put(put)? },
                Op::DeleteRange(delete) => {
                    let (deleted, prev_kvs) = self.delete_range(delete)?;
                    OpResponse::DeleteRange { deleted, prev_kvs }
                }
                Op::Txn(nested) => OpResponse::Txn(self.run(nested, path)?),
            });
        }
        Ok(TxnResponse { succeeded, responses })
    }

    fn range(&self, request: &RangeRequest) -> Result<crate::command::RangeResponse, Error> {
        let at = reader::read_revision(request, self.current(), self.compacted)?;
        match range::execute(&self.tree, at, request, self) {
            Err(Error::Compacted) => Err(lost(at)),
            answer => answer,
        }
    }

    /// Whether the comparison holds for every key of its range.
    fn compare(&self, compare: &Compare) -> Result<bool, Error> {
        let (mut empty, mut holds) = (true, true);
        let mut valued = Vec::new();
        self.tree.visit(Span::from(&compare.range), &mut |_, entry| {
            if entry.is_live() {
                empty = false;
                match &compare.target {
                    CompareTarget::Value(_) => valued.push(entry.newest().at),
                    target => holds = matches(target, entry, compare.result),
                }
            }
            holds
        });
        match &compare.target {
            // There is no way to name a missing value, so no comparison with one holds.
            CompareTarget::Value(_) if empty => Ok(false),
            CompareTarget::Value(value) => {
                for at in valued {
                    if !compare.result.holds(self.load_at(at)?.value.cmp(value)) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            target if empty => Ok(matches(target, Entry::default(), compare.result)),
            _ => Ok(holds),
        }
    }
}

fn lost(revision: i64) -> Error {
    Error::Storage(format!("the record of revision {revision} is missing"))
}

fn branch<'t>(txn: &'t Txn, path: &mut std::slice::Iter<bool>) -> &'t [Op] {
    if path.next() == Some(&true) { &txn.success } else { &txn.failure }
}

fn matches(target: &CompareTarget, entry: Entry, result: CompareResult) -> bool {
    let ordering = match target {
        CompareTarget::Version(version) => entry.version.cmp(version),
        CompareTarget::CreateRevision(revision) => entry.create.cmp(revision),
        CompareTarget::ModRevision(revision) => entry.newest().at.main.cmp(revision),
        CompareTarget::Lease(lease) => entry.lease.cmp(lease),
        CompareTarget::Value(_) => return false,
    };
    result.holds(ordering)
}

impl CompareResult {
    /// Whether a stored value that stands in this order to the given one satisfies the comparison.
    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::NotEqual => ordering.is_ne(),
        }
    }
}
