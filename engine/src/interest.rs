//! Who is to be woken by which key.
//!
//! Watchers of the same range share a group. Groups of single keys are found by hash, groups of ranges by an
//! interval tree over the ranges in start order, so an event costs the watchers that it concerns and no others. A
//! group lists only the watchers that sleep; one that is busy reading costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::task::Waker;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::command::KeyRange;
use crate::event::Event;
use crate::events::Recent;
use crate::sync::{AtomicBool, AtomicI64, AtomicU64, Mutex};

/// A sleeping or busy watcher.
#[derive(Default)]
pub(crate) struct Sleeper {
    waker: Mutex<Option<Waker>>,
    armed: AtomicBool,
    /// Revision of the first event that matched since it was armed.
    woken_at: AtomicI64,
}

/// What became of a sleeper since it was armed.
pub(crate) enum Sleep {
    /// Nothing matched in any notified revision.
    Undisturbed,
    /// The first match was at this revision.
    WokenAt(i64),
}

impl Sleeper {
    pub fn state(&self) -> Sleep {
        if self.armed.load(Acquire) { Sleep::Undisturbed } else { Sleep::WokenAt(self.woken_at.load(Acquire)) }
    }
}

#[derive(Default)]
struct Group {
    armed: Mutex<Vec<Arc<Sleeper>>>,
    /// Watchers of the range. Changed under the registry's lock.
    members: AtomicU64,
    /// What some of them were told last.
    recent: Recent,
}

impl Group {
    fn wake(&self, revision: i64, wakers: &mut Vec<Waker>) {
        let sleepers = std::mem::take(&mut *self.armed.lock());
        for sleeper in sleepers {
            sleeper.woken_at.store(revision, Release);
            // A swap, as in `arm`: of the two, the later one sees what the earlier one left.
            sleeper.armed.swap(false, AcqRel);
            wakers.extend(sleeper.waker.lock().take());
        }
    }
}

/// One range of the interval tree, which lies in the sorted array as a binary search would walk it.
struct Interval {
    start: Bytes,
    end: Option<Bytes>,
    /// The furthest end in the subtree of which this is the root; `None`: unbounded.
    reach: Option<Bytes>,
    group: Arc<Group>,
}

#[derive(Default)]
struct Registry {
    keys: FxHashMap<Bytes, Arc<Group>>,
    ranges: BTreeMap<(Bytes, Bytes), Arc<Group>>,
    intervals: Vec<Interval>,
    stale: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Interest {
    registry: Mutex<Registry>,
    /// Every sleeper concerned by an event up to this revision has been disarmed.
    notified: AtomicI64,
}

/// A watcher's membership; ends when dropped.
pub(crate) struct Member {
    interest: Arc<Interest>,
    range: KeyRange,
    group: Arc<Group>,
    pub sleeper: Arc<Sleeper>,
}

/// The later of two exclusive ends.
fn later(one: &Option<Bytes>, other: &Option<Bytes>) -> Option<Bytes> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other).clone()),
        _ => None,
    }
}

fn set_reach(intervals: &mut [Interval]) -> Option<Option<Bytes>> {
    if intervals.is_empty() {
        return None;
    }
    let (left, rest) = intervals.split_at_mut(intervals.len() / 2);
    let (root, right) = rest.split_first_mut()?;
    let mut reach = root.end.clone();
    for side in [left, right] {
        if let Some(side) = set_reach(side) {
            reach = later(&reach, &side);
        }
    }
    root.reach = reach.clone();
    Some(reach)
}

fn stab(intervals: &[Interval], key: &[u8], found: &mut dyn FnMut(&Group)) {
    let (left, rest) = intervals.split_at(intervals.len() / 2);
    let Some((root, right)) = rest.split_first() else { return };
    if root.reach.as_ref().is_some_and(|reach| &reach[..] <= key) {
        return;
    }
    stab(left, key, found);
    if &root.start[..] <= key {
        if root.end.as_ref().is_none_or(|end| key < &end[..]) {
            found(&root.group);
        }
        stab(right, key, found);
    }
}

impl Registry {
    fn rebuild(&mut self) {
        let end = |end: &Bytes| (end[..] != [0]).then(|| end.clone());
        let of = |((start, until), group): (&(Bytes, Bytes), &Arc<Group>)| Interval {
            start: start.clone(),
            end: end(until),
            reach: None,
            group: Arc::clone(group),
        };
        self.intervals = self.ranges.iter().map(of).collect();
        set_reach(&mut self.intervals);
        self.stale = false;
    }
}

impl Interest {
    pub fn new(revision: i64) -> Interest {
        Interest { notified: AtomicI64::new(revision), ..Interest::default() }
    }

    /// Sleepers that stay armed after this is read concern no event up to the revision it returns.
    pub fn notified(&self) -> i64 {
        self.notified.load(Acquire)
    }

    pub fn join(self: &Arc<Self>, range: KeyRange) -> Member {
        let group = {
            let mut registry = self.registry.lock();
            let registry = &mut *registry;
            let group = if range.end.is_empty() {
                registry.keys.entry(range.start.clone()).or_default()
            } else {
                registry.ranges.entry((range.start.clone(), range.end.clone())).or_default()
            };
            let before = group.members.fetch_add(1, Relaxed);
            registry.stale |= before == 0 && !range.end.is_empty();
            Arc::clone(group)
        };
        Member { interest: Arc::clone(self), range, group, sleeper: Arc::default() }
    }

    /// Disarms everybody whom `events` (in revision order, already published) concern and returns whom to wake. The
    /// caller wakes them after this has returned, when no lock is held.
    pub fn notify(&self, events: &[Arc<Event>], revision: i64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut registry = self.registry.lock();
        if registry.stale {
            registry.rebuild();
        }
        if !registry.keys.is_empty() || !registry.intervals.is_empty() {
            for event in events {
                let key = &event.kv.key;
                if let Some(group) = registry.keys.get(key) {
                    group.wake(event.revision(), &mut wakers);
                }
                stab(&registry.intervals, key, &mut |group| group.wake(event.revision(), &mut wakers));
            }
        }
        drop(registry);
        self.notified.store(revision, Release);
        wakers
    }
}

impl Member {
    /// What others of the same range were told last; `None` where there are no others.
    pub fn recent(&self) -> Option<&Recent> {
        (self.group.members.load(Relaxed) > 1).then_some(&self.group.recent)
    }

    /// Arms the sleeper: from now on the first event that concerns it wakes `waker`. The caller must look once more
    /// for events that were published before.
    pub fn arm(&self, waker: &Waker) {
        {
            let mut slot = self.sleeper.waker.lock();
            match &*slot {
                Some(old) if old.will_wake(waker) => {}
                _ => *slot = Some(waker.clone()),
            }
        }
        if !self.sleeper.armed.swap(true, AcqRel) {
            self.group.armed.lock().push(Arc::clone(&self.sleeper));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.sleeper.armed.load(Acquire) {
            self.group.armed.lock().retain(|sleeper| !Arc::ptr_eq(sleeper, &self.sleeper));
        }
        let mut registry = self.interest.registry.lock();
        let registry = &mut *registry;
        if self.group.members.fetch_sub(1, Relaxed) > 1 {
            return;
        }
        if self.range.end.is_empty() {
            registry.keys.remove(&self.range.start);
        } else {
            registry.ranges.remove(&(self.range.start.clone(), self.range.end.clone()));
            registry.stale = true;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Revision;
    use crate::record::Record;
    use crate::tree::Span;
    use proptest::prelude::*;

    fn event(key: &str) -> Arc<Event> {
        let record = Record { create: 2, version: 1, lease: 0, previous: None, key: key.as_bytes(), value: b"" };
        Arc::new(Event::of(Revision { main: 2, sub: 0 }, &record.encode()).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn disarms_exactly_those_whose_range_holds_the_key(
            ranges in proptest::collection::vec(("[a-d]{1,2}", "([a-d]{0,2}|\0)"), 0..40),
            gone in proptest::collection::vec(any::<bool>(), 40),
            keys in proptest::collection::vec("[a-d]{1,3}", 1..4),
        ) {
            let interest = Arc::new(Interest::new(1));
            let join = |(start, end): &(String, String)| {
                let range = KeyRange { start: start.clone().into(), end: end.clone().into() };
                let member = interest.join(range);
                member.arm(Waker::noop());
                member
            };
            let members: Vec<Member> = ranges.iter().map(join).collect();
            let (left, members): (Vec<_>, Vec<_>) = members.into_iter().zip(&gone).partition(|(_, gone)| **gone);
            drop(left);
            let events: Vec<_> = keys.iter().map(|key| event(key)).collect();
            let woken = interest.notify(&events, 2);
            let mut concerned = 0;
            for (member, _) in &members {
                let span = Span::from(&member.range);
                let holds = keys.iter().any(|key| span.contains(key.as_bytes()));
                concerned += usize::from(holds);
                prop_assert_eq!(matches!(member.sleeper.state(), Sleep::WokenAt(2)), holds, "{:?}", member.range);
            }
            prop_assert_eq!(woken.len(), concerned);
            drop(members);
            let registry = interest.registry.lock();
            prop_assert!(registry.keys.is_empty() && registry.ranges.is_empty());
        }
    }
}
