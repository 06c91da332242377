//! Large ranges that are read while they are sent: first how large the whole is, from the index alone, then key after key,
//! of which no more than a few lie in memory at a time.
//!
//! What is read one by one must still be there when its turn comes, and a compaction that was asked for meanwhile would take
//! it away. It waits for those that began before it, as long as they take to read: who sends what was read to a client keeps
//! no listing for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Backend, READ_CACHE, Space, Visit};
use crate::command::{RangeRequest, SortOrder, SortTarget};
use crate::reader::read_revision;
use crate::record::Record;
use crate::snapshot::{FETCH_CHUNK, Records, Shared, lie_together};
use crate::sync::Mutex;
use crate::tree::Span;
use crate::{Error, Revision};

/// Keys that may be read on together.
const SCAN: usize = 8 * FETCH_CHUNK;
/// A listing up to this size is worth keeping in memory; of a larger one the beginning would be gone before its end is read.
const KEEP_UPTO: usize = READ_CACHE / 8 * 7;
/// Bytes that are looked up at once where they do not lie together, about.
const FETCH_BYTES: usize = 1 << 20;

/// The revisions at which listings are read, and how many at each.
#[derive(Default)]
pub(crate) struct Holds(Mutex<BTreeMap<i64, usize>>);

impl Holds {
    /// Whether somebody reads a revision that a compaction at `compacted` takes away something of.
    pub fn any_before(&self, compacted: i64) -> bool {
        self.0.lock().first_key_value().is_some_and(|(oldest, _)| *oldest < compacted)
    }
}

/// Keeps a compaction from what is visible at a revision.
struct Hold {
    shared: Arc<Shared>,
    revision: i64,
}

impl Hold {
    fn new(shared: &Arc<Shared>, revision: i64) -> Hold {
        *shared.holds.0.lock().entry(revision).or_default() += 1;
        Hold { shared: Arc::clone(shared), revision }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.shared.holds.0.lock();
        if let Some(count) = holds.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.revision);
            }
        }
    }
}

/// A key with all that the index knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    /// 0 for none.
    pub lease: i64,
}

/// A range at one revision, about to be read. While it exists, no compaction frees anything that was asked for after it
/// began: it is to be read at once, and dropped.
pub struct Listing {
    hold: Hold,
    /// The store's revision, for the response header.
    pub revision: i64,
    /// Keys in the range, whatever the limit.
    pub count: i64,
    /// The limit has left keys out.
    pub more: bool,
    /// Sum of the sizes of all keys that will be read.
    pub size: usize,
    /// Where they are, in the order of keys.
    rows: Vec<Revision>,
}

impl Listing {
    /// What `request` asks for, where that is worth it: in the order of keys and of the newest revision, and together at
    /// least `least` in `size`, which tells the size of a key with a value of so many bytes.
    ///
    /// # Errors
    /// As [`Reader::range`](crate::Reader::range).
    pub(crate) fn new(
        shared: &Arc<Shared>,
        request: &RangeRequest,
        least: usize,
        size: &dyn Fn(&Head, usize) -> usize,
    ) -> Result<Option<Listing>, Error> {
        let RangeRequest {
            ref range,
            limit,
            revision: _,
            sort_order,
            sort_target,
            keys_only,
            count_only,
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        } = *request;
        let bounds = [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision];
        let in_order = sort_target == SortTarget::Key && sort_order != SortOrder::Descend;
        if keys_only || count_only || !in_order || bounds != [0; 4] {
            return Ok(None);
        }
        let hold = Hold::new(shared, shared.snapshot.load().revision);
        // One that was published before the writer could know of the hold.
        let snapshot = shared.snapshot.load_full();
        let at = read_revision(request, snapshot.revision, snapshot.compacted)?;
        let span = Span::from(range);
        let count = snapshot.tree.count(span, at);
        let most = usize::try_from(limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        let (mut rows, mut total, mut known) = (Vec::with_capacity(most.min(count as usize)), 0, true);
        snapshot.tree.visit(span, &mut |key, entry| {
            let Some(visible) = entry.visible(at) else { return true };
            if rows.len() == most {
                return false;
            }
            known = visible == entry.newest().at;
            let head = Head {
                key,
                create_revision: entry.create,
                mod_revision: visible.main,
                version: entry.version,
                lease: entry.lease,
            };
            total += size(&head, entry.length as usize);
            rows.push(visible);
            known
        });
        if !known || total < least {
            return Ok(None);
        }
        let more = (rows.len() as u64) < count;
        Ok(Some(Listing { hold, revision: snapshot.revision, count: count as i64, more, size: total, rows }))
    }

    /// Reads every key and its value, in order, until `each` returns `false`.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails or lacks a record.
    pub fn read(&self, each: &mut dyn FnMut(&Head, &[u8]) -> bool) -> Result<(), Error> {
        let shared = &*self.hold.shared;
        let fetch = (FETCH_BYTES * self.rows.len() / self.size.max(1)).clamp(1, FETCH_CHUNK);
        let mut give = |at: Revision, record: &[u8]| {
            let Record { create, version, lease, key, value, .. } = Record::decode(record)?;
            Ok(each(&Head { key, create_revision: create, mod_revision: at.main, version, lease }, value))
        };
        for rows in self.rows.chunks(SCAN) {
            let Some(done) = self.read_on(rows, &mut give)? else { return Ok(()) };
            for rows in rows[done..].chunks(fetch) {
                for (at, record) in rows.iter().zip(shared.records(rows)?) {
                    if !give(*at, &record.ok_or_else(|| missing(*at))?)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads rows that lie together from where they lie, as long as that holds; returns how many, `None` where `give` has
    /// ended it.
    fn read_on(
        &self,
        rows: &[Revision],
        give: &mut impl FnMut(Revision, &[u8]) -> Result<bool, Error>,
    ) -> Result<Option<usize>, Error> {
        let Some((start, end, mut left)) = lie_together(rows).filter(|_| rows.is_sorted()) else { return Ok(Some(0)) };
        let (mut done, mut wanted) = (0, true);
        let visit: Visit = &mut |key, record| {
            left -= 1;
            let here = Revision::from_bytes(key).ok_or_else(|| Error::Storage("damaged revision key".into()))?;
            if rows.get(done) == Some(&here) {
                wanted = give(here, record)?;
                done += 1;
            }
            Ok(wanted && left > 0)
        };
        let backend = &*self.hold.shared.backend;
        match self.size <= KEEP_UPTO {
            true => backend.scan_again(Space::Revisions, &start, Some(&end), visit)?,
            false => Backend::scan(backend, Space::Revisions, &start, Some(&end), visit)?,
        }
        Ok(wanted.then_some(done))
    }
}

fn missing(at: Revision) -> Error {
    Error::Storage(format!("the record of revision {}, write {} is missing", at.main, at.sub))
}
