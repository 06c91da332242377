//! The store as simply as it can be written: every state is kept, every question reads a whole one.
//!
//! It takes a story's lines and gives a story's answers, like a client of a server. Refusals and their order are
//! etcd's; where a real etcd is there, the model is held against it as our server is.

use std::collections::BTreeMap;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::response_op::Response;
use kelson_wire::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use kelson_wire::pb::mvccpb::KeyValue;
use tonic::Status;

use super::refusals::{self, of};
use super::watches::Watches;
use crate::scenario::parse::{self, Words, within};
use crate::scenario::render;
use crate::scenario::stream::{MARK, first_keys};

type State = BTreeMap<Bytes, KeyValue>;

/// A change of one key, in the order of all.
#[derive(Clone)]
pub struct Change {
    pub revision: i64,
    pub now: KeyValue,
    pub deleted: bool,
    pub before: Option<KeyValue>,
}

/// What a transaction works on: nothing of it is seen unless it ends well.
#[derive(Clone)]
pub struct Store {
    pub revision: i64,
    pub compacted: i64,
    /// The state at each revision, and the one that is being made.
    states: BTreeMap<i64, State>,
    pub changes: Vec<Change>,
    leases: BTreeMap<i64, i64>,
    /// Changes of the revision that is being made.
    made: usize,
}

pub struct Model {
    store: Store,
    streams: BTreeMap<String, Watches>,
}

impl Model {
    /// A store with one key, that has been compacted at the revision of that.
    pub fn new(key: &'static str, value: &'static str, revision: i64) -> Self {
        let (states, leases) = (BTreeMap::from([(revision - 1, State::new())]), BTreeMap::new());
        let mut store =
            Store { revision: revision - 1, compacted: revision, states, changes: Vec::new(), leases, made: 0 };
        store.put(&PutRequest { key: key.into(), value: value.into(), ..Default::default() });
        store.end();
        Self { store, streams: BTreeMap::new() }
    }

    /// Answers a line.
    pub fn say(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let rest = Words::new(words[1..].to_vec());
        let answer = match words[0] {
            "watch" => return self.watch(&words[1..]),
            "settle" => return self.settle(),
            "txn" => self.change(|store| store.whole_txn(&parse::txn(&words[1..]))).map(|txn| render::txn(&txn)),
            name => self.plain(name, &rest),
        };
        answer.unwrap_or_else(|status| render::failure(&status))
    }

    fn plain(&mut self, name: &str, words: &Words<'_>) -> Result<Vec<String>, Status> {
        let number = |at: usize| -> i64 { String::from_utf8_lossy(&words.plain(at)).parse().unwrap() };
        Ok(match name {
            "range" => render::range(&self.store.whole_range(parse::range(words))?),
            "stream" => {
                let request = parse::range(words);
                refusals::stream(&request)?;
                render::range(&self.store.whole_range(request)?)
            }
            "put" => render::put(&self.change(|store| store.whole_put(parse::put(words)))?),
            "delete" => render::delete(&self.change(|store| store.whole_delete(parse::delete(words)))?),
            "compact" => {
                self.store.compact(number(0))?;
                vec![format!("rev={}", self.store.revision)]
            }
            "grant" => {
                let (id, ttl) = (number(0), number(1).max(2));
                self.store.grant(id, ttl)?;
                vec![format!("rev={} id={id} ttl={ttl}", self.store.revision)]
            }
            "revoke" => {
                self.change(|store| store.revoke(number(0)))?;
                vec![format!("rev={}", self.store.revision)]
            }
            "keepalive" => {
                let ttl = self.store.leases.get(&number(0)).copied().unwrap_or(0);
                vec![format!("rev={} id={} ttl={ttl}", self.store.revision, number(0))]
            }
            "ttl" => vec![self.store.time_to_live(number(0), words.has("keys"))],
            "leases" => {
                let ids: Vec<_> = self.store.leases.keys().collect();
                vec![format!("rev={} {ids:?}", self.store.revision)]
            }
            other => panic!("no request {other:?}"),
        })
    }

    /// Changes the store, or leaves it as it is where that is refused.
    fn change<T>(&mut self, work: impl FnOnce(&mut Store) -> Result<T, Status>) -> Result<T, Status> {
        let mut next = self.store.clone();
        let done = work(&mut next)?;
        next.end();
        self.store = next;
        Ok(done)
    }

    fn watch(&mut self, words: &[&str]) -> Vec<String> {
        let [name, what, rest @ ..] = words else { panic!("watch what? {words:?}") };
        let mut watches = self.streams.remove(*name).unwrap_or_default();
        let said = match *what {
            "create" => watches.create(&self.store, parse::create(&Words::new(rest.to_vec()))),
            "cancel" => watches.cancel(rest[0].parse().unwrap()),
            other => panic!("watch {other:?}?"),
        };
        self.streams.insert((*name).to_owned(), watches);
        said
    }

    fn settle(&mut self) -> Vec<String> {
        for (key, start) in first_keys(self.streams.values().flat_map(Watches::open)) {
            let key = String::from_utf8_lossy(&key).replace('\0', "\\0");
            loop {
                self.say(&format!("put {key} {MARK}"));
                let revision = self.store.revision;
                self.say(&format!("delete {key}"));
                if revision >= start {
                    break;
                }
            }
        }
        let mut said = Vec::new();
        for (name, watches) in &mut self.streams {
            said.extend(watches.tell(&self.store).into_iter().map(|line| format!("{name} {line}")));
        }
        said
    }
}

impl Store {
    fn header(&self) -> Option<ResponseHeader> {
        let revision = self.revision + i64::from(self.made > 0);
        Some(ResponseHeader { cluster_id: 1, member_id: 1, raft_term: 1, revision })
    }

    /// The header of a part of a transaction's answer.
    fn part(&self) -> Option<ResponseHeader> {
        self.header().map(|header| ResponseHeader { revision: header.revision, ..Default::default() })
    }

    fn now(&self) -> &State {
        self.states.values().next_back().expect("there is always a state")
    }

    fn find(&self, key: &Bytes, end: &Bytes) -> Vec<KeyValue> {
        self.now().values().filter(|kv| within(key, end, &kv.key)).cloned().collect()
    }

    fn write(&mut self, key: &Bytes, kv: Option<KeyValue>) {
        let revision = self.revision + 1;
        let mut state = self.now().clone();
        match &kv {
            Some(kv) => state.insert(key.clone(), kv.clone()),
            None => state.remove(key),
        };
        self.states.insert(revision, state);
        let deleted = kv.is_none();
        // A watch is told what was there at the revision before, and nothing of what is put for the first time.
        let created = kv.as_ref().is_some_and(|kv| kv.create_revision == revision);
        let state_before = self.states.range(..revision).next_back().expect("there is always a state").1;
        let before = state_before.get(key).filter(|_| !created).cloned();
        let bare = KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() };
        self.changes.push(Change { revision, now: kv.unwrap_or(bare), deleted, before });
        self.made += 1;
    }

    fn end(&mut self) {
        self.revision += i64::from(self.made > 0);
        self.made = 0;
    }

    fn whole_put(&mut self, request: PutRequest) -> Result<PutResponse, Status> {
        refusals::put(&request)?;
        self.check_put(&request)?;
        let answer = self.put(&request);
        Ok(PutResponse { header: self.header(), ..answer })
    }

    pub fn check_put(&self, request: &PutRequest) -> Result<(), Status> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(of::lease_not_found());
        }
        if (request.ignore_value || request.ignore_lease) && !self.now().contains_key(&request.key) {
            return Err(of::key_not_found());
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let old = self.now().get(&request.key).cloned();
        let revision = self.revision + 1;
        let mut kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: request.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if request.ignore_value {
                kv.value = old.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.write(&request.key, Some(kv));
        PutResponse { header: self.part(), prev_kv: old.filter(|_| request.prev_kv) }
    }

    fn whole_delete(&mut self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        refusals::key(&request.key)?;
        let answer = self.delete(&request);
        Ok(DeleteRangeResponse { header: self.header(), ..answer })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let found = self.find(&request.key, &request.range_end);
        for kv in &found {
            self.write(&kv.key, None);
        }
        let deleted = found.len() as i64;
        DeleteRangeResponse { header: self.part(), deleted, prev_kvs: if request.prev_kv { found } else { Vec::new() } }
    }

    fn compact(&mut self, revision: i64) -> Result<(), Status> {
        if revision <= self.compacted {
            return Err(of::compacted());
        }
        if revision > self.revision {
            return Err(of::future());
        }
        self.compacted = revision;
        Ok(())
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<(), Status> {
        if ttl > 9_000_000_000 {
            return Err(of::ttl_too_large());
        }
        if self.leases.contains_key(&id) {
            return Err(of::lease_exists());
        }
        self.leases.insert(id, ttl);
        Ok(())
    }

    fn revoke(&mut self, id: i64) -> Result<(), Status> {
        self.leases.remove(&id).ok_or_else(of::lease_not_found)?;
        for key in self.keys_of(id) {
            self.write(&key, None);
        }
        Ok(())
    }

    fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        self.now().values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect()
    }

    fn time_to_live(&self, id: i64, keys: bool) -> String {
        let Some(granted) = self.leases.get(&id) else {
            return format!("rev={} id={id} left=none granted=0 ", self.revision);
        };
        let keys = if keys { self.keys_of(id) } else { Vec::new() };
        let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
        format!("rev={} id={id} left=some granted={granted} {}", self.revision, keys.join(","))
    }

    pub fn whole_range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        refusals::range(&request)?;
        let answer = self.range(&request)?;
        Ok(RangeResponse { header: self.header(), ..answer })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let current = self.revision + i64::from(self.made > 0);
        let at = if request.revision <= 0 { current } else { request.revision };
        if at > current {
            return Err(of::future());
        }
        if at < self.compacted {
            return Err(of::compacted());
        }
        let state = self.states.range(..=at).next_back().expect("states begin at the compaction").1;
        let matching = state.values().filter(|kv| within(&request.key, &request.range_end, &kv.key));
        let mut kvs: Vec<KeyValue> = matching.cloned().collect();
        let count = kvs.len() as i64;
        let header = self.part();
        if request.count_only {
            return Ok(RangeResponse { header, count, ..Default::default() });
        }
        let limit = if request.limit > 0 { usize::try_from(request.limit).unwrap() } else { usize::MAX };
        let bounds = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        // Without an order, what is beyond the limit is not even looked at, and so not sorted.
        if request.sort_order == 0 && bounds == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        let [min_mod, max_mod, min_create, max_create] = bounds;
        let inside = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
        kvs.retain(|kv| {
            inside(kv.mod_revision, min_mod, max_mod) && inside(kv.create_revision, min_create, max_create)
        });
        let order = |one: &KeyValue, other: &KeyValue| match request.sort_target {
            0 => one.key.cmp(&other.key),
            1 => one.version.cmp(&other.version),
            2 => one.create_revision.cmp(&other.create_revision),
            3 => one.mod_revision.cmp(&other.mod_revision),
            _ => one.value.cmp(&other.value),
        };
        match request.sort_order {
            2 => kvs.sort_by(|one, other| order(other, one)),
            _ => kvs.sort_by(order),
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                // A sort by value reads whole pairs, and then gives the lease away.
                if request.sort_target != 4 {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { header, kvs, more, count })
    }

    fn whole_txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        refusals::txn(request)?;
        let before = self.clone();
        before.check_txn(request)?;
        let answer = self.txn(request, &before)?;
        Ok(TxnResponse { header: self.header(), ..answer })
    }

    /// What the branch that will run needs of the store, asked before anything is written.
    fn check_txn(&self, request: &TxnRequest) -> Result<(), Status> {
        for op in self.branch(request) {
            match op.request.as_ref().expect("refused before") {
                Request::RequestRange(range) if range.revision == 0 => {}
                Request::RequestRange(range) if range.revision > self.revision => return Err(of::future()),
                Request::RequestRange(range) if range.revision < self.compacted => return Err(of::compacted()),
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestTxn(nested) => self.check_txn(nested)?,
                Request::RequestRange(_) | Request::RequestDeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn branch<'a>(&self, request: &'a TxnRequest) -> &'a [RequestOp] {
        if request.compare.iter().all(|compare| self.compare(compare)) { &request.success } else { &request.failure }
    }

    fn txn(&mut self, request: &TxnRequest, before: &Store) -> Result<TxnResponse, Status> {
        let succeeded = request.compare.iter().all(|compare| before.compare(compare));
        let mut responses = Vec::new();
        for op in before.branch(request) {
            let response = match op.request.as_ref().expect("refused before") {
                Request::RequestRange(range) => Response::ResponseRange(self.range(range)?),
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.delete(delete)),
                Request::RequestTxn(nested) => Response::ResponseTxn(self.txn(nested, before)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: None, succeeded, responses })
    }

    fn compare(&self, compare: &Compare) -> bool {
        let holds = |kv: &KeyValue| {
            let ordering = match compare.target_union.as_ref().expect("stories compare with something") {
                TargetUnion::Version(version) => kv.version.cmp(version),
                TargetUnion::CreateRevision(revision) => kv.create_revision.cmp(revision),
                TargetUnion::ModRevision(revision) => kv.mod_revision.cmp(revision),
                TargetUnion::Value(value) => kv.value.cmp(value),
                TargetUnion::Lease(lease) => kv.lease.cmp(lease),
            };
            match compare.result() {
                CompareResult::Equal => ordering.is_eq(),
                CompareResult::NotEqual => ordering.is_ne(),
                CompareResult::Greater => ordering.is_gt(),
                CompareResult::Less => ordering.is_lt(),
            }
        };
        let found = self.find(&compare.key, &compare.range_end);
        match (compare.target(), found.is_empty()) {
            (CompareTarget::Value, true) => false,
            (_, true) => holds(&KeyValue::default()),
            (_, false) => found.iter().all(holds),
        }
    }
}
