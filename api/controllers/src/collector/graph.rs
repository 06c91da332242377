//! Who owns whom. The graph is fed by watches and answers, without I/O, what is to be done about one object.
//!
//! The rules are those of the Garbage Collection page of the Kubernetes documentation.

use std::collections::VecDeque;
use std::sync::Arc;

use kelson_wire::kube::{Gvr, ObjectMeta, OwnerReference};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::view::Owners;

/// Finalizer of an owner that is deleted after its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner that is deleted without its dependents.
pub(super) const ORPHAN: &str = "orphan";
/// Owners that are known to be gone and remembered, so that many dependents of one cost one look-up.
const ABSENT: usize = 1000;

/// A uid.
pub(super) type Uid = Arc<str>;

/// An object in the graph.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub gvr: &'static Gvr,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Resource version of this state: what a write based on it must be guarded by.
    pub revision: i64,
    pub owners: Arc<Owners>,
    deleting: bool,
    foreground: bool,
    orphan: bool,
}

/// What is to be done about an object.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Keep,
    /// These owners are not in the graph: look whether they exist, then ask again.
    LookUp(Vec<OwnerReference>),
    /// Take the references to these owners off: another owner keeps the object.
    Disown(Vec<String>),
    /// Delete it with this propagation policy. `unblock`: first let go of owners that wait for it, as it waits for them.
    Delete {
        policy: &'static str,
        unblock: bool,
    },
    /// Nothing blocks it any more: take the foreground finalizer off.
    Release,
    /// These dependents have to be deleted first.
    Await(Vec<Uid>),
    /// Take the reference to it off these dependents, then the orphan finalizer off it.
    Orphan(Vec<Uid>),
}

/// The owner graph. Its size is that of the cluster: one small entry per object.
#[derive(Default)]
pub(super) struct Graph {
    objects: FxHashMap<Uid, Object>,
    /// Dependents by owner uid, whether the owner is known or not.
    dependents: FxHashMap<Uid, FxHashSet<Uid>>,
    absent: FxHashSet<Uid>,
    absent_order: VecDeque<Uid>,
}

impl Graph {
    /// Takes in the newest state of an object. Returns the uids to look at.
    pub(super) fn observe(&mut self, gvr: &'static Gvr, meta: &ObjectMeta, owners: &Arc<Owners>) -> Vec<Uid> {
        let uid = &meta.uid;
        let has = |finalizer: &str| meta.finalizers.iter().any(|each| each == finalizer);
        let deleting = meta.is_terminating();
        let (foreground, orphan) = (deleting && has(FOREGROUND), deleting && has(ORPHAN));
        let mut work = Vec::new();
        let before = match self.objects.get_mut(uid) {
            Some(object) => {
                object.revision = object.revision.max(meta.revision());
                let same = (object.deleting, object.foreground, object.orphan) == (deleting, foreground, orphan);
                if same && (Arc::ptr_eq(&object.owners, owners) || object.owners == *owners) {
                    return work;
                }
                let before = object.clone();
                object.owners = owners.clone();
                (object.deleting, object.foreground, object.orphan) = (deleting, foreground, orphan);
                Some(before)
            }
            None => {
                let object = Object {
                    gvr,
                    namespace: meta.namespace.clone(),
                    name: meta.name.clone(),
                    revision: meta.revision(),
                    owners: owners.clone(),
                    deleting,
                    foreground,
                    orphan,
                };
                self.objects.insert(uid.clone(), object);
                None
            }
        };
        let old_owners = before.as_ref().map(|before| before.owners.clone()).unwrap_or_default();
        self.relink(uid, &old_owners, owners, &mut work);
        let was = |flag: fn(&Object) -> bool| before.as_ref().is_some_and(flag);
        if foreground && !was(|object| object.foreground) {
            work.push(uid.clone());
            work.extend(self.dependents.get(uid).into_iter().flatten().cloned());
            // Owners that wait for it can go on waiting: its own dependents come first.
        }
        if orphan && !was(|object| object.orphan) {
            work.push(uid.clone());
        }
        work
    }

    fn relink(&mut self, uid: &Uid, before: &Owners, after: &Owners, work: &mut Vec<Uid>) {
        for gone in &before.0 {
            let kept = after.0.iter().find(|owner| owner.uid == gone.uid);
            if kept.is_none() {
                self.unlink(&gone.uid, uid);
            }
            let blocked = gone.block_owner_deletion == Some(true);
            let blocks = kept.is_some_and(|owner| owner.block_owner_deletion == Some(true));
            if blocked && !blocks {
                self.wake_waiting(&gone.uid, work);
            }
        }
        for owner in &after.0 {
            if before.0.iter().any(|known| known.uid == owner.uid) {
                continue;
            }
            let owner_uid: Uid = owner.uid.as_str().into();
            let is_settled = self.objects.get(&owner_uid).is_some_and(|owner| !owner.foreground);
            self.dependents.entry(owner_uid).or_default().insert(uid.clone());
            if !is_settled {
                work.push(uid.clone());
            }
        }
    }

    /// An object is gone. Returns the uids to look at.
    pub(super) fn forget(&mut self, uid: &Uid) -> Vec<Uid> {
        let mut work = Vec::new();
        self.note_absent(uid);
        let Some(object) = self.objects.remove(uid) else { return work };
        for owner in &object.owners.0 {
            self.unlink(&owner.uid, uid);
            self.wake_waiting(&owner.uid, &mut work);
        }
        work.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        work
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn wake_waiting(&self, owner: &str, work: &mut Vec<Uid>) {
        if let Some((uid, object)) = self.objects.get_key_value(owner)
            && object.foreground
        {
            work.push(uid.clone());
        }
    }

    /// A live read found nothing under this uid.
    pub(super) fn note_absent(&mut self, uid: &str) {
        let uid: Uid = uid.into();
        if self.absent.insert(uid.clone()) {
            self.absent_order.push_back(uid);
            if self.absent_order.len() > ABSENT
                && let Some(oldest) = self.absent_order.pop_front()
            {
                self.absent.remove(&oldest);
            }
        }
    }

    /// The object with this uid.
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// What to do about an object. `present` are owners that a live read has just found although no watch shows them.
    pub(super) fn judge(&self, uid: &str, present: &FxHashSet<String>) -> Verdict {
        let Some(object) = self.objects.get(uid) else { return Verdict::Keep };
        if object.orphan {
            return Verdict::Orphan(self.dependents_of(uid));
        }
        if object.foreground {
            return self.judge_foreground(uid);
        }
        if object.deleting {
            return Verdict::Keep;
        }
        let (mut solid, mut unknown) = (false, Vec::new());
        let (mut dangling, mut waiting) = (Vec::new(), Vec::new());
        for owner in &object.owners.0 {
            match self.objects.get(owner.uid.as_str()) {
                // An owner in another namespace is no owner.
                Some(found) if !found.namespace.is_empty() && found.namespace != object.namespace => {
                    dangling.push(owner.uid.clone());
                }
                Some(found) if found.foreground => waiting.push(owner.uid.clone()),
                Some(_) => solid = true,
                None if present.contains(&owner.uid) => solid = true,
                None if self.absent.contains(owner.uid.as_str()) => dangling.push(owner.uid.clone()),
                None => unknown.push(owner.clone()),
            }
        }
        if !unknown.is_empty() {
            return Verdict::LookUp(unknown);
        }
        if solid || object.owners.0.is_empty() {
            dangling.extend(waiting);
            return if dangling.is_empty() { Verdict::Keep } else { Verdict::Disown(dangling) };
        }
        let dependents = self.dependents.get(uid);
        if !waiting.is_empty() && dependents.is_some_and(|dependents| !dependents.is_empty()) {
            let in_circle = |uid: &Uid| self.objects.get(uid).is_some_and(|dependent| dependent.foreground);
            let unblock = dependents.into_iter().flatten().any(in_circle);
            return Verdict::Delete { policy: "Foreground", unblock };
        }
        Verdict::Delete { policy: "Background", unblock: false }
    }

    fn judge_foreground(&self, uid: &str) -> Verdict {
        let blocks = |dependent: &Uid| {
            self.objects.get(dependent).is_some_and(|dependent| {
                let mut owners = dependent.owners.0.iter();
                owners.any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
            })
        };
        let blocking: Vec<Uid> = self.dependents_of(uid).into_iter().filter(blocks).collect();
        if blocking.is_empty() {
            return Verdict::Release;
        }
        let idle = |uid: &Uid| self.objects.get(uid).is_some_and(|object| !object.deleting);
        Verdict::Await(blocking.into_iter().filter(idle).collect())
    }

    fn dependents_of(&self, uid: &str) -> Vec<Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, deleting: bool, finalizer: &str) -> ObjectMeta {
        ObjectMeta {
            uid: uid.into(),
            name: uid.into(),
            namespace: "n".into(),
            deletion_timestamp: deleting.then(|| "2026-01-01T00:00:00Z".to_string()),
            finalizers: if finalizer.is_empty() { vec![] } else { vec![finalizer.to_string()] },
            ..ObjectMeta::default()
        }
    }

    fn owned(by: &[&str]) -> Arc<Owners> {
        let reference = |uid: &&str| OwnerReference {
            uid: uid.to_string(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        Arc::new(Owners(by.iter().map(reference).collect()))
    }

    fn uids(work: &[Uid]) -> Vec<&str> {
        let mut uids: Vec<&str> = work.iter().map(|uid| &**uid).collect();
        uids.sort_unstable();
        uids.dedup();
        uids
    }

    fn put(graph: &mut Graph, uid: &str, owners: &[&str]) -> Vec<Uid> {
        graph.observe(&Gvr::PODS, &meta(uid, false, ""), &owned(owners))
    }

    fn judge(graph: &Graph, uid: &str) -> Verdict {
        graph.judge(uid, &FxHashSet::default())
    }

    #[test]
    fn dependents_of_a_vanished_owner_are_deleted() {
        let mut graph = Graph::default();
        assert!(put(&mut graph, "owner", &[]).is_empty());
        assert!(put(&mut graph, "a", &["owner"]).is_empty(), "a known owner needs no look");
        put(&mut graph, "b", &["owner", "other"]);
        put(&mut graph, "other", &[]);
        assert_eq!(judge(&graph, "a"), Verdict::Keep);
        assert_eq!(uids(&graph.forget(&"owner".into())), ["a", "b"]);
        assert_eq!(judge(&graph, "a"), Verdict::Delete { policy: "Background", unblock: false });
        assert_eq!(judge(&graph, "b"), Verdict::Disown(vec!["owner".into()]), "another owner keeps it");
    }

    #[test]
    fn an_unknown_owner_is_looked_up_first() {
        let mut graph = Graph::default();
        assert_eq!(uids(&put(&mut graph, "a", &["ghost"])), ["a"]);
        assert!(matches!(judge(&graph, "a"), Verdict::LookUp(owners) if owners[0].uid == "ghost"));
        assert_eq!(graph.judge("a", &["ghost".to_string()].into_iter().collect()), Verdict::Keep);
        graph.note_absent("ghost");
        assert_eq!(judge(&graph, "a"), Verdict::Delete { policy: "Background", unblock: false });
        for other in 0..2 * ABSENT {
            graph.note_absent(&other.to_string());
        }
        assert_eq!(graph.absent.len(), ABSENT);
        assert!(matches!(judge(&graph, "a"), Verdict::LookUp(_)), "forgotten, not guessed");
    }

    #[test]
    fn foreground_deletes_the_leaves_first() {
        let mut graph = Graph::default();
        put(&mut graph, "deployment", &[]);
        put(&mut graph, "set", &["deployment"]);
        put(&mut graph, "pod", &["set"]);
        let deleted = graph.observe(&Gvr::DEPLOYMENTS, &meta("deployment", true, FOREGROUND), &owned(&[]));
        assert_eq!(uids(&deleted), ["deployment", "set"]);
        assert_eq!(judge(&graph, "deployment"), Verdict::Await(vec!["set".into()]));
        assert_eq!(judge(&graph, "set"), Verdict::Delete { policy: "Foreground", unblock: false });
        graph.observe(&Gvr::REPLICA_SETS, &meta("set", true, FOREGROUND), &owned(&["deployment"]));
        assert_eq!(judge(&graph, "deployment"), Verdict::Await(vec![]), "waits, and does not ask again");
        assert_eq!(judge(&graph, "pod"), Verdict::Delete { policy: "Background", unblock: false });
        assert_eq!(uids(&graph.forget(&"pod".into())), ["set"]);
        assert_eq!(judge(&graph, "set"), Verdict::Release);
        assert_eq!(uids(&graph.forget(&"set".into())), ["deployment"]);
        assert_eq!(judge(&graph, "deployment"), Verdict::Release);
    }

    #[test]
    fn a_circle_of_foreground_deletions_is_cut() {
        let mut graph = Graph::default();
        put(&mut graph, "a", &["b"]);
        put(&mut graph, "b", &["a"]);
        graph.observe(&Gvr::PODS, &meta("a", true, FOREGROUND), &owned(&["b"]));
        assert_eq!(judge(&graph, "b"), Verdict::Delete { policy: "Foreground", unblock: true });
    }

    #[test]
    fn orphans_lose_the_reference_and_stay() {
        let mut graph = Graph::default();
        put(&mut graph, "set", &[]);
        put(&mut graph, "pod", &["set"]);
        let work = graph.observe(&Gvr::REPLICA_SETS, &meta("set", true, ORPHAN), &owned(&[]));
        assert_eq!(uids(&work), ["set"]);
        assert_eq!(judge(&graph, "set"), Verdict::Orphan(vec!["pod".into()]));
        put(&mut graph, "pod", &[]);
        assert_eq!(judge(&graph, "set"), Verdict::Orphan(vec![]));
        graph.forget(&"set".into());
        assert_eq!(judge(&graph, "pod"), Verdict::Keep);
    }

    #[test]
    fn an_owner_in_another_namespace_is_none() {
        let mut graph = Graph::default();
        let far = ObjectMeta { namespace: "far".into(), ..meta("owner", false, "") };
        graph.observe(&Gvr::PODS, &far, &owned(&[]));
        put(&mut graph, "a", &["owner"]);
        assert_eq!(judge(&graph, "a"), Verdict::Delete { policy: "Background", unblock: false });
    }
}
