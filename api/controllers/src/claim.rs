//! Which dependents an owner has: those it controls and still selects, those it should let go, those it should adopt.

use std::sync::Arc;

use kelson_wire::kube::meta::StringMap;
use kelson_wire::kube::{Client, Gvr, Keyed, LabelSelector, ObjectMeta};

use crate::control;
use crate::error::Error;
use crate::view::{Pod, ReplicaSet};

/// An object that a controller can own.
pub(crate) trait Claimable: Keyed {
    /// Its labels.
    fn labels(&self) -> &StringMap;
    /// Whether it is ended or ending, so that adopting it would be of no use.
    fn is_past(&self) -> bool;
}

impl Claimable for Pod {
    fn labels(&self) -> &StringMap {
        &self.labels
    }

    fn is_past(&self) -> bool {
        !self.is_active()
    }
}

impl Claimable for ReplicaSet {
    fn labels(&self) -> &StringMap {
        &self.metadata.labels
    }

    fn is_past(&self) -> bool {
        self.metadata.is_terminating()
    }
}

/// The three sorts.
pub(crate) struct Claims<T> {
    pub kept: Vec<Arc<T>>,
    pub released: Vec<Arc<T>>,
    pub adopted: Vec<Arc<T>>,
}

/// Sorts what `owner` controls (`owned`) and what nobody controls in its namespace (`orphans`).
pub(crate) fn sort<T: Claimable>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    owned: Vec<Arc<T>>,
    orphans: Vec<Arc<T>>,
) -> Claims<T> {
    let (kept, mut released): (Vec<_>, Vec<_>) =
        owned.into_iter().partition(|object| selector.matches(object.labels()));
    released.retain(|object| !object.meta().is_terminating());
    let mut adopted = orphans;
    adopted.retain(|object| !object.is_past() && selector.matches(object.labels()));
    if owner.is_terminating() {
        // An owner on its way out takes nobody in and lets the garbage collector decide about the rest.
        released.clear();
        adopted.clear();
    }
    Claims { kept, released, adopted }
}

/// Carries claims out: returns what the owner has afterwards.
pub(crate) async fn settle<T: Claimable>(
    client: &Client,
    gvr: &Gvr,
    owner_gvr: &Gvr,
    owner: &ObjectMeta,
    claims: Claims<T>,
) -> Result<Vec<Arc<T>>, Error> {
    let Claims { mut kept, released, adopted } = claims;
    for object in &released {
        control::release(client, gvr, object.meta(), &owner.uid).await?;
    }
    if !adopted.is_empty() && control::may_adopt(client, owner_gvr, owner).await? {
        for object in adopted {
            control::adopt(client, gvr, object.meta(), owner_gvr, owner).await?;
            kept.push(object);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, app: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.labels = Arc::new([("app".to_string(), app.to_string())].into());
        Arc::new(pod)
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| &*pod.metadata.name).collect()
    }

    #[test]
    fn keeps_releases_and_adopts_by_selector() {
        let selector = LabelSelector { match_labels: [("app".into(), "web".into())].into(), ..Default::default() };
        let owned = vec![pod("kept", "web"), pod("relabelled", "db")];
        let mut ended = Pod::clone(&pod("ended", "web"));
        ended.phase = crate::view::Phase::Succeeded;
        let orphans = vec![pod("orphan", "web"), pod("stranger", "db"), Arc::new(ended)];
        let mut owner = ObjectMeta::default();
        let claims = sort(&owner, &selector, owned.clone(), orphans.clone());
        assert_eq!(names(&claims.kept), ["kept"]);
        assert_eq!(names(&claims.released), ["relabelled"]);
        assert_eq!(names(&claims.adopted), ["orphan"]);
        owner.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
        let claims = sort(&owner, &selector, owned, orphans);
        assert_eq!((claims.released.len(), claims.adopted.len()), (0, 0));
    }
}
