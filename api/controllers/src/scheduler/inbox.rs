//! Changes on their way from the reflectors to the driver. Never blocks the reflectors.

use std::sync::Arc;

use kelson_wire::kube::{Delta, Keyed};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::devices::{DeviceClassView, ResourceClaimView, ResourceSliceView};
use super::gang::GroupView;
use super::spreading::{PairsView, SelectorView};
use super::storage::{AttachmentView, CapacityView, ClaimView, ClassView, DriverView, LimitsView, VolumeView};
use super::view::{BudgetView, NamespaceView, NodeView, PodView};

/// Changes beyond this many are merged per object, so that at most one is held for each object there is.
const MERGE_AT: usize = 1 << 16;

/// One kind's changes, in order.
#[derive(Debug)]
struct Changes<T> {
    deltas: Vec<Delta<T>>,
    merge_at: usize,
}

/// Where the reflector of one kind leaves what has changed.
#[derive(Debug)]
pub struct Slot<T> {
    changes: Mutex<Changes<T>>,
    arrived: Arc<Notify>,
}

impl<T: Keyed> Slot<T> {
    fn new(arrived: &Arc<Notify>) -> Arc<Slot<T>> {
        Arc::new(Slot { changes: Mutex::new(Changes::new()), arrived: arrived.clone() })
    }

    /// Adds changes.
    pub fn push(&self, deltas: Vec<Delta<T>>) {
        self.changes.lock().push(deltas);
        self.arrived.notify_one();
    }

    /// Takes everything.
    pub fn take(&self) -> Vec<Delta<T>> {
        self.changes.lock().take()
    }
}

macro_rules! kinds {
    ($($name:ident: $view:ty),* $(,)?) => {
        /// All kinds.
        #[derive(Debug)]
        pub struct Inbox {
            $(pub $name: Arc<Slot<$view>>,)*
            arrived: Arc<Notify>,
        }

        impl Inbox {
            /// An empty inbox.
            pub fn new() -> Inbox {
                let arrived = Arc::new(Notify::new());
                Inbox { $($name: Slot::new(&arrived),)* arrived }
            }
        }
    };
}

kinds! {
    namespaces: NamespaceView,
    budgets: BudgetView,
    services: PairsView,
    replication_controllers: PairsView,
    replica_sets: SelectorView,
    stateful_sets: SelectorView,
    pod_groups: GroupView,
    storage_classes: ClassView,
    csi_drivers: DriverView,
    csi_nodes: LimitsView,
    capacities: CapacityView,
    attachments: AttachmentView,
    volumes: VolumeView,
    claims: ClaimView,
    resource_slices: ResourceSliceView,
    device_classes: DeviceClassView,
    resource_claims: ResourceClaimView,
    nodes: NodeView,
    pods: PodView,
}

impl Inbox {
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
