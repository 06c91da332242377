//! Whether everything that clients and watchers were told fits together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::linear::{self, Action, Call, Swapped, Value};
use super::load::{Told, promised};
use super::order;
use super::watchers::{Change, Record};

/// A key as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub value: u64,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// What the whole run has left.
pub struct Evidence<'a> {
    pub told: &'a Told,
    /// Of the watcher of every key, whole: from revision 2 to the last.
    pub record: &'a Record,
    /// What a watcher that begins after everything is told, from the compacted revision on.
    pub history: &'a BTreeMap<i64, Vec<Change>>,
    /// Every key at the end.
    pub held: &'a BTreeMap<String, Held>,
    pub revision: i64,
}

/// Every complaint; empty where all is well.
pub fn complaints(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    dense(evidence, &mut found);
    told_again(evidence, &mut found);
    replayed(evidence, &mut found);
    writes(evidence, &mut found);
    pairs(evidence, &mut found);
    leases(evidence, &mut found);
    found.extend(order::check(&evidence.told.answers));
    for (at, calls) in evidence.told.registers.iter().enumerate() {
        if let Err(violation) = linear::check(calls) {
            found.push(format!("register/{at}: {violation}"));
        }
    }
    found
}

/// What became of the calls without an answer that could take effect at any later time is told by the watcher of every
/// key: a value that it never saw was never written, and one that it saw was there before anybody was answered at a later
/// revision. Without this each would stay under way to the end, and there are more than can be kept apart.
pub fn settle(told: &mut Told, record: &Record) {
    // By revision, the earliest end of an answer that is no older.
    let mut earliest: BTreeMap<i64, u64> = BTreeMap::new();
    for answer in &told.answers {
        let end = earliest.entry(answer.revision).or_insert(u64::MAX);
        *end = answer.end.min(*end);
    }
    let mut so_far = u64::MAX;
    for end in earliest.values_mut().rev() {
        so_far = so_far.min(*end);
        *end = so_far;
    }
    let there = |revision: i64| earliest.range(revision..).next().map_or(u64::MAX, |(_, end)| *end);
    let claimed: BTreeSet<i64> = told.sent.iter().map(|sent| sent.revision).collect();
    for (at, calls) in told.registers.iter_mut().enumerate() {
        let key = format!("register/{at}");
        let mut written: HashMap<u64, i64> = HashMap::new();
        // The last deletion that nobody was told of.
        let mut deleted = None;
        for (&revision, (_, changes)) in record {
            for change in changes.iter().filter(|change| change.key == key) {
                match change.value {
                    Some(value) => drop(written.insert(value, revision)),
                    None if !claimed.contains(&revision) => deleted = Some(revision),
                    None => {}
                }
            }
        }
        let settled = |call: Call| -> Option<Call> {
            if call.end != u64::MAX {
                return Some(call);
            }
            let (action, revision) = match call.action {
                Action::MaybeWrite { to: None } => {
                    // It may have been another's, or have found nothing.
                    let end = deleted.map(there).filter(|end| *end > call.start)?;
                    return Some(Call { end, ..call });
                }
                Action::MaybeWrite { to: Some(to) } => (Action::Put { to }, written.get(&to).copied()),
                Action::MaybeSwap { from, to } => {
                    let revision = to.and_then(|to| written.get(&to).copied());
                    (Action::Swap { from, to, result: Swapped::Done }, revision)
                }
                _ => return Some(call),
            };
            Some(Call { end: there(revision?).max(call.start), action, ..call })
        };
        *calls = std::mem::take(calls).into_iter().filter_map(settled).collect();
    }
}

fn dense(evidence: &Evidence, found: &mut Vec<String>) {
    let expected = 2..=evidence.revision;
    if !evidence.record.keys().copied().eq(expected) {
        found.push(format!("the watcher's revisions are not 2 to {}", evidence.revision));
    }
}

/// History reads the same to everybody and at any time.
fn told_again(evidence: &Evidence, found: &mut Vec<String>) {
    let Some(first) = evidence.history.first_key_value().map(|(first, _)| *first) else { return };
    let mut again = evidence.history.iter();
    for (revision, (_, changes)) in evidence.record.range(first..) {
        if again.next() != Some((revision, changes)) {
            found.push(format!("revision {revision} was watched as {changes:?} and reads otherwise later"));
            return;
        }
    }
    if let Some((revision, _)) = again.next() {
        found.push(format!("revision {revision} was never watched"));
    }
}

/// The changes, one after the other, lead to what is there.
fn replayed(evidence: &Evidence, found: &mut Vec<String>) {
    let mut state: BTreeMap<String, Held> = BTreeMap::new();
    for (&revision, (_, changes)) in evidence.record {
        for change in changes {
            let before = state.remove(&change.key);
            let Some(value) = change.value else {
                if before.is_none() {
                    found.push(format!("revision {revision} deletes {}, which is not there", change.key));
                }
                continue;
            };
            let (create, version) = before.map_or((revision, 1), |held| (held.create, held.version + 1));
            if (change.create, change.version) != (create, version) {
                found.push(format!("revision {revision}: {change:?} should be version {version} of {create}"));
            }
            let held = Held { value, create, modified: revision, version, lease: change.lease };
            state.insert(change.key.clone(), held);
        }
    }
    if &state != evidence.held {
        let differ = state.iter().find(|(key, held)| evidence.held.get(*key) != Some(held));
        let extra = evidence.held.keys().find(|key| !state.contains_key(*key));
        found.push(format!("what is there is not what was written: {differ:?}, {extra:?}"));
    }
}

/// What was acknowledged is there, at the revision that was told; what was cut off is there once or not at all; and there
/// is nothing that nobody wrote.
fn writes(evidence: &Evidence, found: &mut Vec<String>) {
    let mut times: HashMap<(&str, u64), usize> = HashMap::new();
    for (_, changes) in evidence.record.values() {
        for change in changes {
            if let Some(value) = change.value {
                *times.entry((&change.key, value)).or_default() += 1;
            }
        }
    }
    let mut sent: BTreeSet<(&str, u64)> = BTreeSet::new();
    for write in &evidence.told.sent {
        if let Some(value) = write.value {
            sent.insert((&write.key, value));
        }
        if write.revision == 0 {
            continue;
        }
        let changes = evidence.record.get(&write.revision).map_or(&[][..], |(_, changes)| changes);
        if !changes.iter().any(|change| change.key == write.key && change.value == write.value) {
            found.push(format!("acknowledged and lost: {write:?}; that revision holds {changes:?}"));
        }
    }
    for ((key, value), times) in times {
        if times > 1 {
            found.push(format!("{value} was written to {key} {times} times"));
        }
        if !sent.contains(&(key, value)) {
            found.push(format!("{value} was written to {key} by nobody"));
        }
    }
}

/// A transaction is one revision and whole.
fn pairs(evidence: &Evidence, found: &mut Vec<String>) {
    for (revision, (_, changes)) in evidence.record {
        let of = |side: &str| changes.iter().filter(|change| change.key == side).map(|change| change.value).next();
        let (left, right): (Option<Value>, Option<Value>) = (of("pair/left"), of("pair/right"));
        if left != right {
            found.push(format!("revision {revision} holds a part of a transaction: {left:?}, {right:?}"));
        }
    }
}

/// A lease ends when its time is up or somebody revokes it, and takes its keys along.
fn leases(evidence: &Evidence, found: &mut Vec<String>) {
    for (revision, (heard, changes)) in evidence.record {
        for change in changes.iter().filter(|change| change.value.is_none()) {
            let Some(id) = change.key.strip_prefix("lease/") else { continue };
            let lease = u64::from_str_radix(id, 16).ok().and_then(|id| evidence.told.leases.get(&(id as i64)));
            let Some(lease) = lease else {
                found.push(format!("revision {revision} ends lease {id}, which nobody was granted"));
                continue;
            };
            let may_end = lease.revoked.map_or(u64::MAX, |at| at).min(promised(lease.renewed));
            if *heard < may_end {
                found.push(format!("lease {id} ended {} ns before its time, at revision {revision}", may_end - heard));
            }
        }
    }
    for key in evidence.held.keys().filter(|key| key.starts_with("lease/")) {
        found.push(format!("{key} outlived its lease"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{Action, Call};
    use super::super::load::{Lease, Sent};
    use super::super::order::Answer;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    struct Run {
        told: Told,
        record: Record,
        history: BTreeMap<i64, Vec<Change>>,
        held: BTreeMap<String, Held>,
    }

    fn change(key: &str, value: Value, create: i64, version: i64) -> Change {
        Change { key: key.into(), value, create, version, lease: 0 }
    }

    /// Two puts of a register, a pair, a lease that ran out.
    fn run() -> Run {
        let changes = [
            vec![change("register/0", Some(1), 2, 1)],
            vec![change("register/0", Some(2), 2, 2)],
            vec![change("pair/left", Some(3), 4, 1), change("pair/right", Some(3), 4, 1)],
            vec![change("lease/000000000000000a", Some(4), 5, 1)],
            vec![change("lease/000000000000000a", None, 0, 0)],
        ];
        let mut told = Told::default();
        let mut record = Record::new();
        for (revision, changes) in (2..).zip(changes) {
            let at = revision as u64 * SECOND;
            for change in changes.iter().filter(|change| change.value.is_some()) {
                let (key, value) = (change.key.clone(), change.value);
                told.sent.push(Sent { key, value, revision });
                told.answers.push(Answer { start: at, end: at + 1, revision, wrote: change.key != "pair/right" });
            }
            record.insert(revision, (at + 2, changes));
        }
        for (start, to) in [(2, 1), (3, 2)] {
            told.registers[0].push(Call { start: start * SECOND, end: start * SECOND + 1, action: Action::Put { to } });
        }
        told.leases.insert(10, Lease { renewed: 4 * SECOND, revoked: None });
        let history = record.iter().map(|(revision, (_, changes))| (*revision, changes.clone())).collect();
        let hold = |value, create, modified, version| Held { value, create, modified, version, lease: 0 };
        let held = BTreeMap::from([
            ("register/0".to_owned(), hold(2, 2, 3, 2)),
            ("pair/left".to_owned(), hold(3, 4, 4, 1)),
            ("pair/right".to_owned(), hold(3, 4, 4, 1)),
        ]);
        Run { told, record, history, held }
    }

    #[track_caller]
    fn complains(about: &str, spoil: impl FnOnce(&mut Run)) {
        let mut run = run();
        spoil(&mut run);
        let revision = *run.record.last_key_value().expect("a record").0;
        let Run { told, record, history, held } = &run;
        let found = complaints(&Evidence { told, record, history, held, revision });
        match about {
            "" => assert_eq!(found, Vec::<String>::new()),
            about => assert!(found.iter().any(|complaint| complaint.contains(about)), "{about:?} is not in {found:?}"),
        }
    }

    #[test]
    fn a_sound_run_is_accepted() {
        complains("", |_| {});
        // Cut off, it may have happened or not.
        complains("", |run| run.told.sent[0].revision = 0);
        complains("", |run| run.told.sent.push(Sent { key: "register/0".into(), value: Some(9), revision: 0 }));
        complains("", |run| run.history.retain(|revision, _| *revision >= 4));
        complains("", |run| run.told.leases.get_mut(&10).expect("it").revoked = Some(5 * SECOND));
    }

    #[test]
    fn what_became_of_calls_without_an_answer_is_in_the_record() {
        let mut run = run();
        let open = |to| Call { start: 2 * SECOND, end: u64::MAX, action: Action::MaybeWrite { to } };
        let swap = Call { action: Action::MaybeSwap { from: Some(1), to: Some(8) }, ..open(None) };
        run.told.registers[0] = vec![open(Some(2)), open(Some(7)), open(None), swap];
        settle(&mut run.told, &run.record);
        // Revision 3 was told of then; 7 and 8 were never written, and nothing was deleted.
        let written = Call { start: 2 * SECOND, end: 3 * SECOND + 1, action: Action::Put { to: 2 } };
        assert_eq!(run.told.registers[0], [written]);
        run.record.insert(7, (7 * SECOND, vec![change("register/0", None, 0, 0)]));
        run.told.registers[0] = vec![open(None)];
        settle(&mut run.told, &run.record);
        assert_eq!(run.told.registers[0], [open(None)], "nobody was told of a revision after that deletion");
    }

    #[test]
    fn planted_faults_are_found() {
        let register = |value, version| change("register/0", value, 2, version);
        complains("revisions are not 2 to", |run| drop(run.record.remove(&4)));
        complains("reads otherwise later", |run| run.history.get_mut(&3).expect("it")[0].value = Some(7));
        complains("reads otherwise later", |run| drop(run.history.remove(&6)));
        complains("was never watched", |run| drop(run.record.remove(&6)));
        complains("is not what was written", |run| _ = run.held.remove("pair/left"));
        complains("is not what was written", |run| run.held.get_mut("register/0").expect("it").modified = 2);
        complains("should be version", |run| run.record.get_mut(&3).expect("it").1 = vec![register(Some(2), 3)]);
        complains("which is not there", |run| run.record.get_mut(&2).expect("it").1 = vec![register(None, 0)]);
        complains("acknowledged and lost", |run| {
            run.told.sent.push(Sent { key: "register/0".into(), value: Some(9), revision: 3 });
        });
        complains("2 times", |run| run.record.get_mut(&3).expect("it").1 = vec![register(Some(1), 2)]);
        complains("by nobody", |run| drop(run.told.sent.remove(0)));
        complains("a part of a transaction", |run| drop(run.record.get_mut(&4).expect("it").1.pop()));
        complains("before its time", |run| run.record.get_mut(&6).expect("it").0 = 5 * SECOND);
        complains("outlived its lease", |run| {
            run.record.remove(&6);
            run.held.insert(
                "lease/000000000000000a".into(),
                Held { value: 4, create: 5, modified: 5, version: 1, lease: 0 },
            );
        });
        complains("had been told", |run| run.told.answers[1].revision = 2);
        complains("cannot be explained", |run| {
            let read = Action::Read { seen: Some(1) };
            run.told.registers[0].push(Call { start: 9 * SECOND, end: 9 * SECOND + 1, action: read });
        });
    }
}
