//! Changes on their way from the reflectors to the driver. Never blocks the reflectors.

use std::sync::Arc;

use kelson_wire::kube::{Delta, Keyed};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::view::{BudgetView, NamespaceView, NodeView, PodView};

/// Changes beyond this many are merged per object, so that at most one is held for each object there is.
const MERGE_AT: usize = 1 << 16;

/// One kind's changes, in order.
#[derive(Debug)]
struct Changes<T> {
    deltas: Vec<Delta<T>>,
    merge_at: usize,
}

/// Everything that has come, by kind.
#[derive(Debug, Default)]
pub struct Arrivals {
    pub namespaces: Vec<Delta<NamespaceView>>,
    pub budgets: Vec<Delta<BudgetView>>,
    pub nodes: Vec<Delta<NodeView>>,
    pub pods: Vec<Delta<PodView>>,
}

/// All kinds.
#[derive(Debug)]
pub struct Inbox {
    namespaces: Mutex<Changes<NamespaceView>>,
    budgets: Mutex<Changes<BudgetView>>,
    nodes: Mutex<Changes<NodeView>>,
    pods: Mutex<Changes<PodView>>,
    arrived: Notify,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Inbox {
        Inbox {
            namespaces: Mutex::new(Changes::new()),
            budgets: Mutex::new(Changes::new()),
            nodes: Mutex::new(Changes::new()),
            pods: Mutex::new(Changes::new()),
            arrived: Notify::new(),
        }
    }

    /// Adds changes of namespaces.
    pub fn push_namespaces(&self, deltas: Vec<Delta<NamespaceView>>) {
        self.namespaces.lock().push(deltas);
        self.arrived.notify_one();
    }

    /// Adds changes of disruption budgets.
    pub fn push_budgets(&self, deltas: Vec<Delta<BudgetView>>) {
        self.budgets.lock().push(deltas);
        self.arrived.notify_one();
    }

    /// Adds changes of nodes.
    pub fn push_nodes(&self, deltas: Vec<Delta<NodeView>>) {
        self.nodes.lock().push(deltas);
        self.arrived.notify_one();
    }

    /// Adds changes of pods.
    pub fn push_pods(&self, deltas: Vec<Delta<PodView>>) {
        self.pods.lock().push(deltas);
        self.arrived.notify_one();
    }

    /// Takes everything.
    pub fn take(&self) -> Arrivals {
        Arrivals {
            namespaces: self.namespaces.lock().take(),
            budgets: self.budgets.lock().take(),
            nodes: self.nodes.lock().take(),
            pods: self.pods.lock().take(),
        }
    }

    /// Returns when something has arrived since the last return.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl<T: Keyed> Changes<T> {
    fn new() -> Changes<T> {
        Changes { deltas: Vec::new(), merge_at: MERGE_AT }
    }

    fn push(&mut self, deltas: Vec<Delta<T>>) {
        if self.deltas.is_empty() {
            self.deltas = deltas;
        } else {
            self.deltas.extend(deltas);
        }
        if self.deltas.len() >= self.merge_at {
            self.merge();
            // So that a merge is paid for by as many changes as it looks at.
            self.merge_at = MERGE_AT.max(2 * self.deltas.len());
        }
    }

    fn take(&mut self) -> Vec<Delta<T>> {
        self.merge_at = MERGE_AT;
        std::mem::take(&mut self.deltas)
    }

    /// Leaves one change per object: from what it was first to what it is now.
    fn merge(&mut self) {
        let mut places: FxHashMap<Arc<str>, usize> = FxHashMap::default();
        let mut merged: Vec<Delta<T>> = Vec::new();
        for delta in self.deltas.drain(..).flat_map(split) {
            let uid = delta.latest().meta().uid.clone();
            match places.get(&uid) {
                Some(at) => merged[*at].new = delta.new,
                None => {
                    places.insert(uid, merged.len());
                    merged.push(delta);
                }
            }
        }
        // What came and went in between was never seen.
        merged.retain(|delta| delta.old.is_some() || delta.new.is_some());
        self.deltas = merged;
    }
}

/// A replacement by another object of the same name is two changes.
fn split<T: Keyed>(delta: Delta<T>) -> impl Iterator<Item = Delta<T>> {
    let replaced = match (&delta.old, &delta.new) {
        (Some(old), Some(new)) => old.meta().uid != new.meta().uid,
        _ => false,
    };
    let (first, second) = if replaced {
        (Delta { old: delta.old, new: None }, Some(Delta { old: None, new: delta.new }))
    } else {
        (delta, None)
    };
    std::iter::once(first).chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, revision: u32) -> Option<Arc<PodView>> {
        let json = format!(r#"{{"metadata":{{"name":"p","uid":"{uid}","resourceVersion":"{revision}"}}}}"#);
        Some(Arc::new(serde_json::from_str(&json).unwrap()))
    }

    #[test]
    fn merging_keeps_the_first_and_the_last_of_each_object() {
        let mut changes = Changes { deltas: Vec::new(), merge_at: 4 };
        changes.push(vec![
            Delta { old: None, new: pod("a", 1) },
            Delta { old: pod("a", 1), new: pod("a", 2) },
            Delta { old: pod("b", 1), new: pod("c", 3) },
            Delta { old: pod("a", 2), new: None },
            Delta { old: pod("c", 3), new: pod("c", 4) },
        ]);
        let seen: Vec<_> = changes
            .take()
            .into_iter()
            .map(|delta| {
                let told =
                    |side: Option<Arc<PodView>>| side.map(|pod| (pod.meta().uid.to_string(), pod.meta().revision()));
                (told(delta.old), told(delta.new))
            })
            .collect();
        let of = |uid: &str, revision| Some((uid.to_string(), revision));
        assert_eq!(seen, [(of("b", 1), None), (None, of("c", 4))]);
    }
}
