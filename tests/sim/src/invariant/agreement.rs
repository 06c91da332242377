//! Members agree: an entry is the same on each, and so are the state behind it and what watchers are told of it; entries
//! are applied in order, each once, and their leaders never go back.

use kelson_engine::{Applied, Engine};

use crate::{
    truth::{Change, Entry, Step},
    world::World,
};

/// A state that was found on disk, or received, is one that somebody had at that position.
pub fn opened(world: &World, member: u64, engine: &Engine) {
    let Some(applied) = engine.applied() else { return };
    let revision = engine.reader().revision();
    let known = world.truth.lock().entries.get(&applied.index).cloned();
    match known {
        Some(entry) if (entry.term, entry.node, entry.revision) == (applied.term, applied.node, revision) => {
            hashed(world, member, applied, engine);
        }
        other => world.violate("agreement", format!(
            "member {member} starts from {applied:?} at revision {revision}, which is not what was applied: {other:?}"
        )),
    }
}

/// Notes an entry; whether it is the first time that one applies it.
pub fn applied(
    world: &World,
    member: u64,
    (before, applied): (Option<Applied>, Applied),
    revision: i64,
    events: &[(i64, Change)],
) -> bool {
    if applied.index != before.map_or(0, |before| before.index + 1) {
        world.violate("agreement", format!("member {member} applies {applied:?} after {before:?}"));
    }
    if before.is_some_and(|before| (before.term, before.node) > (applied.term, applied.node)) {
        world.violate("agreement", format!("member {member} applies {applied:?} of an older leader after {before:?}"));
    }
    let entry = Entry { term: applied.term, node: applied.node, revision, hash: None };
    let mut truth = world.truth.lock();
    let is_new = match truth.entries.get(&applied.index) {
        None => {
            truth.entries.insert(applied.index, entry);
            true
        }
        Some(known) => {
            if (known.term, known.node, known.revision) != (entry.term, entry.node, entry.revision) {
                world.violate(
                    "agreement",
                    format!("member {member} applies {applied:?} as {entry:?}, another one as {known:?}"),
                );
            }
            false
        }
    };
    let (at, tick) = (world.now(), world.tick());
    for group in events.chunk_by(|(one, _), (other, _)| one == other) {
        let revision = group[0].0;
        let changes: Vec<Change> = group.iter().map(|(_, change)| change.clone()).collect();
        match truth.steps.get(&revision) {
            None => _ = truth.steps.insert(revision, Step { changes, at, tick }),
            Some(known) if known.changes == changes => {}
            Some(known) => {
                let known = &known.changes;
                world.violate(
                    "agreement",
                    format!("member {member} has {changes:?} at revision {revision}, another one {known:?}"),
                );
            }
        }
    }
    drop(truth);
    if is_new {
        world.note(format!("entry {} of {}/{} gives revision {revision}", applied.index, applied.term, applied.node));
    }
    is_new
}

/// Compares the whole state with what others had behind the same entry.
pub fn hashed(world: &World, member: u64, applied: Applied, engine: &Engine) {
    let hash = match engine.state_hash() {
        Ok(hash) => hash,
        Err(error) => {
            return world.violate("agreement", format!("member {member}: the state behind {applied:?}: {error}"));
        }
    };
    let mut truth = world.truth.lock();
    let Some(entry) = truth.entries.get_mut(&applied.index) else { return };
    if *entry.hash.get_or_insert(hash) != hash {
        world.violate("agreement", format!("member {member} has another state behind {applied:?} than others"));
    }
}
