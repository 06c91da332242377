//! Shared caches: one reflector per resource, its changes handed to every controller that asked, and indexes over it.

use std::hash::Hash;
use std::sync::Arc;

use kelson_wire::kube::{Cache, Client, Delta, Gvr, Keyed, ListParams, Reflector};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

type Handler<T> = Box<dyn Fn(&Delta<T>) + Send + Sync>;

/// The one local copy of a resource. Handlers run in the order they were added, before the next change is applied.
pub(crate) struct Informer<T> {
    gvr: Gvr,
    params: ListParams,
    cache: Arc<Cache<T>>,
    handlers: RwLock<Vec<Handler<T>>>,
}

impl<T: Keyed> Informer<T> {
    /// A copy of the whole collection.
    pub(crate) fn new(gvr: Gvr) -> Arc<Informer<T>> {
        Informer::selected(gvr, ListParams::default())
    }

    /// A copy of what the selectors choose.
    pub(crate) fn selected(gvr: Gvr, params: ListParams) -> Arc<Informer<T>> {
        Arc::new(Informer { gvr, params, cache: Cache::new(), handlers: RwLock::default() })
    }

    /// Calls `handler` for each change from now on. A replaced object (same name, new uid) is a deletion and an addition.
    pub(crate) fn on_change(&self, handler: impl Fn(&Delta<T>) + Send + Sync + 'static) {
        self.handlers.write().push(Box::new(handler));
    }

    /// Keeps an index from now on; it is current when later handlers run.
    pub(crate) fn index<K: Hash + Eq + Clone + Send + Sync + 'static>(
        &self,
        of: impl Fn(&T) -> Option<K> + Send + Sync + 'static,
    ) -> Arc<Index<K, T>> {
        let index = Arc::new(Index { groups: RwLock::default() });
        let kept = index.clone();
        self.on_change(move |delta| kept.apply(delta, &of));
        index
    }

    /// The object with this key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<T>> {
        self.cache.get(key)
    }

    /// Every object.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.cache.all()
    }

    /// Returns once the first list is complete and its handlers have run.
    pub(crate) async fn wait_synced(&self) {
        self.cache.wait_synced().await;
    }

    /// Keeps the copy true until dropped.
    pub(crate) async fn run(self: Arc<Self>, client: Client) {
        let reflector = Reflector { client, gvr: self.gvr, namespace: String::new(), params: self.params.clone() };
        let cache = self.cache.clone();
        reflector.run(cache, move |deltas| self.changed(deltas)).await;
    }

    fn changed(&self, deltas: Vec<Delta<T>>) {
        let handlers = self.handlers.read();
        let call = |delta: &Delta<T>| handlers.iter().for_each(|handler| handler(delta));
        for delta in deltas {
            match (&delta.old, &delta.new) {
                (Some(old), Some(new)) if old.meta().uid != new.meta().uid => {
                    call(&Delta { old: Some(old.clone()), new: None });
                    call(&Delta { old: None, new: Some(new.clone()) });
                }
                _ => call(&delta),
            }
        }
    }
}

/// The objects of one group, by uid.
type Group<T> = FxHashMap<Arc<str>, Arc<T>>;

/// Objects grouped by a property, so that a reconcile never scans the collection.
pub(crate) struct Index<K, T> {
    groups: RwLock<FxHashMap<K, Group<T>>>,
}

impl<K: Hash + Eq + Clone, T: Keyed> Index<K, T> {
    /// The objects of one group, in no particular order.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, group: &Q) -> Vec<Arc<T>>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.groups.read().get(group).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// Number of objects in one group.
    pub(crate) fn count<Q: Hash + Eq + ?Sized>(&self, group: &Q) -> usize
    where
        K: std::borrow::Borrow<Q>,
    {
        self.groups.read().get(group).map_or(0, |objects| objects.len())
    }

    /// The groups that have an object.
    pub(crate) fn groups(&self) -> Vec<K> {
        self.groups.read().keys().cloned().collect()
    }

    fn apply(&self, delta: &Delta<T>, of: &impl Fn(&T) -> Option<K>) {
        let before = delta.old.as_ref().and_then(|old| of(old));
        let after = delta.new.as_ref().and_then(|new| of(new));
        let uid = &delta.latest().meta().uid;
        let mut groups = self.groups.write();
        if let Some(before) = before.filter(|before| after.as_ref() != Some(before))
            && let Some(objects) = groups.get_mut(&before)
        {
            objects.remove(uid);
            if objects.is_empty() {
                groups.remove(&before);
            }
        }
        if let (Some(after), Some(new)) = (after, &delta.new) {
            groups.entry(after).or_default().insert(uid.clone(), new.clone());
        }
    }
}
