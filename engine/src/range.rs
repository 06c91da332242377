//! Reads of ranges, with every option of etcd's `RangeRequest`.

use std::cmp::Ordering;

use bytes::BytesMut;

use crate::command::{KeyValue, RangeRequest, RangeResponse, SortOrder, SortTarget};
use crate::history::Entry;
use crate::snapshot::Records;
use crate::tree::{Span, Tree};
use crate::{Error, Revision, record};

/// A key in the range. Where the newest write is the one to show, the index knows all but the value.
struct Hit<'a> {
    key: &'a [u8],
    at: Revision,
    /// Empty key and value until loaded.
    kv: KeyValue,
    known: bool,
    loaded: bool,
}

impl<'a> Hit<'a> {
    fn new(key: &'a [u8], entry: Entry, at: Revision) -> Hit<'a> {
        let known = entry.newest().at == at;
        let kv = match known {
            true => KeyValue {
                create_revision: entry.create,
                mod_revision: at.main,
                version: entry.version,
                lease: entry.lease,
                ..KeyValue::default()
            },
            false => KeyValue { mod_revision: at.main, ..KeyValue::default() },
        };
        Hit { key, at, kv, known, loaded: false }
    }
}

fn load(hits: &mut [Hit], records: &dyn Records, which: impl Fn(&Hit) -> bool) -> Result<(), Error> {
    let mut wanted: Vec<&mut Hit> = hits.iter_mut().filter(|hit| !hit.loaded && which(hit)).collect();
    if let [hit] = &mut wanted[..] {
        let bytes = records.record(hit.at)?.ok_or(Error::Compacted)?;
        hit.kv = record::key_value(hit.at, &bytes)?;
        (hit.known, hit.loaded) = (true, true);
        return Ok(());
    }
    let at: Vec<Revision> = wanted.iter().map(|hit| hit.at).collect();
    for (hit, bytes) in wanted.into_iter().zip(records.records(&at)?) {
        hit.kv = record::key_value(hit.at, &bytes.ok_or(Error::Compacted)?)?;
        (hit.known, hit.loaded) = (true, true);
    }
    Ok(())
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn compare(target: SortTarget, one: &Hit, other: &Hit) -> Ordering {
    match target {
        SortTarget::Key => one.key.cmp(other.key),
        SortTarget::Version => one.kv.version.cmp(&other.kv.version),
        SortTarget::CreateRevision => one.kv.create_revision.cmp(&other.kv.create_revision),
        SortTarget::ModRevision => one.kv.mod_revision.cmp(&other.kv.mod_revision),
        SortTarget::Value => one.kv.value.cmp(&other.kv.value),
    }
}

/// Answers `request` from `tree` as of revision `at`, which the caller has checked.
///
/// As in etcd: `count` ignores limit and filters; filters and an explicit sort order apply before the limit; a sort
/// target without an order sorts ascending what the limit (and one more key) left.
///
/// # Errors
/// [`Error::Compacted`] where a record is missing: the caller finds out whether a compaction overtook the read.
pub(crate) fn execute(
    tree: &Tree,
    at: i64,
    request: &RangeRequest,
    records: &dyn Records,
) -> Result<RangeResponse, Error> {
    let span = Span::from(&request.range);
    let count = tree.count(span, at) as i64;
    if request.count_only || count == 0 {
        return Ok(RangeResponse { count, ..RangeResponse::default() });
    }
    let filtered =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision]
            != [0; 4];
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0);
    let explicit = filtered || request.sort_order != SortOrder::None;
    let most = limit.filter(|_| !explicit).map_or(usize::MAX, |limit| limit.saturating_add(1));

    let mut hits = Vec::with_capacity(most.min(count as usize));
    tree.visit(span, &mut |key, entry| {
        if let Some(at) = entry.visible(at) {
            hits.push(Hit::new(key, entry, at));
        }
        hits.len() < most
    });

    let target = request.sort_target;
    let sorted = target != SortTarget::Key || request.sort_order == SortOrder::Descend;
    if filtered || (sorted && target != SortTarget::Key) {
        load(&mut hits, records, |hit| !hit.known || target == SortTarget::Value)?;
    }
    if filtered {
        hits.retain(|hit| passes(request, &hit.kv));
    }
    if sorted {
        match request.sort_order {
            SortOrder::Descend => hits.sort_by(|one, other| compare(target, other, one)),
            _ => hits.sort_by(|one, other| compare(target, one, other)),
        }
    }
    let more = limit.is_some_and(|limit| hits.len() > limit);
    hits.truncate(limit.unwrap_or(usize::MAX));
    load(&mut hits, records, |hit| !request.keys_only || !hit.known)?;
    Ok(RangeResponse { kvs: finish(hits, request.keys_only, target == SortTarget::Value), more, count })
}

/// As in etcd, keys without values have no leases either, but for those that were sorted by value.
fn finish(hits: Vec<Hit>, keys_only: bool, leases: bool) -> Vec<KeyValue> {
    if !keys_only {
        return hits.into_iter().map(|hit| hit.kv).collect();
    }
    // All keys in one buffer: one allocation for the whole answer.
    let mut keys = BytesMut::with_capacity(hits.iter().map(|hit| hit.key.len()).sum());
    let bare = hits.into_iter().map(|hit| {
        keys.extend_from_slice(hit.key);
        let lease = if leases { hit.kv.lease } else { 0 };
        KeyValue { key: keys.split().freeze(), value: Default::default(), lease, ..hit.kv }
    });
    bare.collect()
}
