//! The watches of one stream, as the model has them.

use std::collections::BTreeMap;

use kelson_wire::pb::etcdserverpb::WatchCreateRequest;

use super::model::{Change, Model, Store};
use crate::scenario::parse;
use crate::scenario::render;
use crate::scenario::stream::{MARK, first_keys};

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

    pub fn settle(&mut self, model: &mut Model) -> Vec<String> {
        // Those that ask for what is gone end as soon as they are looked at: before anything is written.
        let mut said = Vec::new();
        let compacted = model.store().compacted;
        let open = self.watches.iter().filter(|(_, watch)| !watch.over);
        let open: BTreeMap<_, _> = open.map(|(id, watch)| (*id, watch.create.clone())).collect();
        for (key, start) in first_keys(&open) {
            let key = String::from_utf8_lossy(&key).replace('\0', "\\0");
            loop {
                model.say(&format!("put {key} {MARK}"));
                let revision = model.store().revision;
                model.say(&format!("delete {key}"));
                if revision >= start {
                    break;
                }
            }
        }
        for (id, watch) in self.watches.iter_mut().filter(|(_, watch)| !watch.over) {
            if watch.next < compacted {
                watch.over = true;
                said.push(format!("{id}: canceled compacted={compacted}"));
                continue;
            }
            let new = model.store().changes.iter().filter(|change| change.revision >= watch.next);
            said.extend(new.filter(|change| watch.tells(change)).map(|change| {
                let told = watch.line(change, compacted);
                format!("{id}: {told}")
            }));
            watch.next = watch.next.max(model.store().revision + 1);
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
