//! The watches of one stream, as the model has them.

use std::collections::BTreeMap;

use kelson_wire::pb::etcdserverpb::WatchCreateRequest;

use super::model::{Change, Store};
use crate::scenario::parse;
use crate::scenario::render;

struct Watch {
    create: WatchCreateRequest,
    /// The first revision that it has not told.
    next: i64,
    /// Ended because its start was compacted; its id is not free.
    over: bool,
}

#[derive(Default)]
pub struct Watches {
    watches: BTreeMap<i64, Watch>,
    next_id: i64,
}

impl Watches {
    pub fn create(&mut self, store: &Store, create: WatchCreateRequest) -> Vec<String> {
        let refused = |reason: &str| vec![format!("-1: created canceled reason={reason:?}")];
        if create.start_revision < 0 {
            return refused("etcdserver: mvcc: required revision has been compacted");
        }
        let first = parse::first_key(&create);
        if !create.range_end.is_empty() && create.range_end != "\0" && first >= create.range_end {
            return refused("mvcc: watcher range is empty");
        }
        let id = if create.watch_id == 0 {
            while self.watches.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        } else if self.watches.contains_key(&create.watch_id) {
            return refused("mvcc: duplicate watch ID provided on the WatchStream");
        } else {
            create.watch_id
        };
        let next = if create.start_revision == 0 { store.revision + 1 } else { create.start_revision };
        self.watches.insert(id, Watch { create, next, over: false });
        vec![format!("{id}: created rev={}", store.revision)]
    }

    pub fn cancel(&mut self, id: i64) -> Vec<String> {
        match self.watches.remove(&id) {
            Some(_) => vec![format!("{id}: canceled")],
            None => Vec::new(),
        }
    }

    /// Watches that have not ended.
    pub fn open(&self) -> impl Iterator<Item = &WatchCreateRequest> {
        self.watches.values().filter(|watch| !watch.over).map(|watch| &watch.create)
    }

    /// All that was not told yet.
    pub fn tell(&mut self, store: &Store) -> Vec<String> {
        let mut said = Vec::new();
        for (id, watch) in self.watches.iter_mut().filter(|(_, watch)| !watch.over) {
            if watch.next < store.compacted {
                watch.over = true;
                said.push(format!("{id}: canceled compacted={}", store.compacted));
                continue;
            }
            let new = store.changes.iter().filter(|change| change.revision >= watch.next);
            let told = new.filter(|change| watch.tells(change)).map(|change| watch.line(change, store.compacted));
            said.extend(told.map(|told| format!("{id}: {told}")));
            watch.next = watch.next.max(store.revision + 1);
        }
        said
    }
}

impl Watch {
    fn tells(&self, change: &Change) -> bool {
        parse::tells(&self.create, &change.now.key, change.deleted)
    }

    fn line(&self, change: &Change, compacted: i64) -> String {
        let kind = if change.deleted { "delete" } else { "put" };
        // What a key was before is read at the revision before, which may be gone.
        let before = change.before.as_ref().filter(|_| self.create.prev_kv && change.revision > compacted);
        let before = before.map_or(String::new(), |before| format!(" was {}", render::kv(before)));
        format!("{kind} {}{before}", render::kv(&change.now))
    }
}
