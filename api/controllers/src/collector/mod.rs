//! Garbage collection: background, foreground and orphaning deletion of dependents, over every resource there is.

mod graph;

use std::sync::Arc;
use std::time::Duration;

use kelson_wire::kube::meta::OwnerReference;
use kelson_wire::kube::{ApiError, Delta, Gvr, Keyed, ObjectMeta, PatchKind};
use parking_lot::{Mutex, RwLock};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::controller::Controller;
use crate::discovery::{self, Kinds};
use crate::error::Error;
use crate::informer::Informer;
use crate::queue::{Key, Queue};
use crate::view::{Owners, Stub};
use crate::world::World;
use graph::{FOREGROUND, Graph, ORPHAN, Object, Uid, Verdict};

/// Time between two looks at which resources there are.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(60);
/// How long the first list of one resource is waited for: one that never answers must not stop the collection of the rest.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);
/// Attempts to make a guarded write before the queue's backoff takes over.
const ATTEMPTS: usize = 3;

/// The garbage collector.
pub(crate) struct Collector {
    world: Arc<World>,
    queue: Queue,
    graph: Mutex<Graph>,
    kinds: RwLock<Arc<Kinds>>,
}

/// Resources that the shared caches watch already.
const SHARED: [Gvr; 14] = [
    Gvr::PODS,
    Gvr::REPLICA_SETS,
    Gvr::DEPLOYMENTS,
    Gvr::DAEMON_SETS,
    Gvr::CONTROLLER_REVISIONS,
    Gvr::JOBS,
    Gvr::NODES,
    Gvr::LEASES,
    Gvr::NAMESPACES,
    Gvr::SERVICE_ACCOUNTS,
    Gvr::CONFIG_MAPS,
    Gvr::SERVICES,
    Gvr::ENDPOINTS,
    Gvr::ENDPOINT_SLICES,
];

impl Collector {
    /// A collector that listens to the shared caches from now on.
    pub(crate) fn new(world: &Arc<World>) -> Arc<Collector> {
        let this = Arc::new(Collector {
            world: world.clone(),
            queue: Queue::new(Duration::ZERO),
            graph: Mutex::default(),
            kinds: RwLock::default(),
        });
        let that = this.clone();
        world.pods.on_change(move |delta| {
            let pod = delta.latest();
            that.changed(&Gvr::PODS, &pod.metadata, &pod.owners, delta.new.is_none());
        });
        this.listen(&world.replica_sets, &Gvr::REPLICA_SETS);
        this.listen(&world.deployments, &Gvr::DEPLOYMENTS);
        this.listen(&world.daemon_sets, &Gvr::DAEMON_SETS);
        this.listen(&world.revisions, &Gvr::CONTROLLER_REVISIONS);
        this.listen(&world.jobs, &Gvr::JOBS);
        this.listen(&world.nodes, &Gvr::NODES);
        this.listen(&world.leases, &Gvr::LEASES);
        this.listen(&world.namespaces, &Gvr::NAMESPACES);
        this.listen(&world.service_accounts, &Gvr::SERVICE_ACCOUNTS);
        this.listen(&world.config_maps, &Gvr::CONFIG_MAPS);
        this.listen(&world.services, &Gvr::SERVICES);
        this.listen(&world.endpoints, &Gvr::ENDPOINTS);
        this.listen(&world.slices, &Gvr::ENDPOINT_SLICES);
        this
    }

    fn listen<T: Keyed>(self: &Arc<Self>, informer: &Informer<T>, gvr: &'static Gvr) {
        let that = self.clone();
        informer.on_change(move |delta: &Delta<T>| {
            let meta = delta.latest().meta();
            that.changed(gvr, meta, &owners_of(meta), delta.new.is_none());
        });
    }

    fn changed(&self, gvr: &'static Gvr, meta: &ObjectMeta, owners: &Arc<Owners>, gone: bool) {
        let work = {
            let mut graph = self.graph.lock();
            if gone { graph.forget(&meta.uid) } else { graph.observe(gvr, meta, owners) }
        };
        work.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// Watches the resources that nobody else watches, as discovery finds them. Runs until `shutdown`; `ready` is cancelled when
    /// the graph is complete for the first time.
    pub(crate) async fn watch_rest(self: Arc<Self>, ready: CancellationToken, shutdown: CancellationToken) {
        let mut watched: FxHashMap<Gvr, (Arc<Informer<Stub>>, AbortHandle)> = FxHashMap::default();
        loop {
            match discovery::resources(&self.world.client).await {
                Ok(resources) => {
                    *self.kinds.write() = Kinds::new(&resources);
                    let wanted: FxHashSet<Gvr> = resources
                        .iter()
                        .filter(|resource| resource.can(&["list", "watch", "delete"]))
                        .map(|resource| resource.gvr)
                        .filter(|gvr| !SHARED.contains(gvr) && gvr.resource != Gvr::EVENTS.resource)
                        .collect();
                    watched.retain(|gvr, (_, task)| {
                        wanted.contains(gvr) || {
                            task.abort();
                            false
                        }
                    });
                    for gvr in wanted {
                        watched.entry(gvr).or_insert_with(|| self.watch(gvr, &shutdown));
                    }
                    for (informer, _) in watched.values() {
                        if timeout(SYNC_PATIENCE, informer.wait_synced()).await.is_err() {
                            tracing::warn!("a resource cannot be listed; its objects are not collected");
                        }
                    }
                    ready.cancel();
                }
                Err(error) => tracing::warn!(%error, "discovery failed, garbage collection goes on with what it knows"),
            }
            // The first discovery is retried soon: nothing is collected before it.
            let pause = if ready.is_cancelled() { DISCOVERY_PERIOD } else { Duration::from_secs(1) };
            tokio::time::sleep(pause).await;
        }
    }

    fn watch(self: &Arc<Self>, gvr: Gvr, shutdown: &CancellationToken) -> (Arc<Informer<Stub>>, AbortHandle) {
        let informer = Informer::<Stub>::new(gvr);
        self.listen(&informer, known(gvr));
        let run = informer.clone().run(self.world.client.clone());
        let task = tokio::spawn(shutdown.clone().run_until_cancelled_owned(run));
        (informer, task.abort_handle())
    }

    async fn act(&self, uid: &str) -> Result<(), Error> {
        let mut present = FxHashSet::default();
        loop {
            let (verdict, object) = {
                let graph = self.graph.lock();
                let Some(object) = graph.get(uid) else { return Ok(()) };
                (graph.judge(uid, &present), object.clone())
            };
            match verdict {
                Verdict::Keep => return Ok(()),
                Verdict::LookUp(owners) => {
                    for owner in owners {
                        if self.exists(&object, &owner).await? {
                            present.insert(owner.uid);
                        } else {
                            self.graph.lock().note_absent(&owner.uid);
                        }
                    }
                }
                Verdict::Disown(owners) => return self.disown(uid, &object, &owners).await,
                Verdict::Delete { policy, unblock } => {
                    if unblock {
                        self.unblock(uid, &object).await?;
                    }
                    return self.delete(uid, &object, policy).await;
                }
                Verdict::Await(dependents) => {
                    dependents.into_iter().for_each(|dependent| self.queue.add(dependent));
                    return Ok(());
                }
                Verdict::Release => return self.remove_finalizer(uid, &object, FOREGROUND).await,
                Verdict::Orphan(dependents) => return self.orphan(uid, &object, &dependents).await,
            }
        }
    }

    /// Whether an owner exists, by a live read: the uid decides, as another object may have its name by now.
    async fn exists(&self, object: &Object, owner: &OwnerReference) -> Result<bool, Error> {
        let kinds = self.kinds.read().clone();
        let Some(gvr) = kinds.find(&owner.api_version, &owner.kind) else {
            return Err(Error::Invalid(format!(
                "no matches for kind {:?} in version {:?}: owner of {}/{}",
                owner.kind, owner.api_version, object.namespace, object.name
            )));
        };
        if gvr.namespaced && object.namespace.is_empty() {
            return Ok(false);
        }
        match self.world.client.get::<Stub>(&gvr, &object.namespace, &owner.name).await {
            Ok(found) => Ok(*found.metadata.uid == *owner.uid),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes exactly the state that was judged: uid and resource version guard the write.
    async fn delete(&self, uid: &str, object: &Object, policy: &str) -> Result<(), Error> {
        let options = json!({
            "propagationPolicy": policy,
            "preconditions": {"uid": uid, "resourceVersion": object.revision.to_string()},
        });
        match self.world.client.delete(object.gvr, &object.namespace, &object.name, &options).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error @ ApiError::Status { code: 409, .. }) => {
                // The graph lags behind: read what there is, judge again.
                match self.read(uid, object).await? {
                    Some(_) => Err(error.into()),
                    None => Ok(()),
                }
            }
            outcome => Ok(outcome?),
        }
    }

    /// The object as it is now, taken into the graph too; `None` if it is gone.
    async fn read(&self, uid: &str, object: &Object) -> Result<Option<ObjectMeta>, Error> {
        match self.world.client.get::<Stub>(object.gvr, &object.namespace, &object.name).await {
            Ok(found) if *found.metadata.uid == *uid => {
                let meta = found.metadata;
                self.changed(object.gvr, &meta, &owners_of(&meta), false);
                Ok(Some(meta))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads, changes and writes metadata, guarded by the resource version that was read.
    async fn edit(
        &self,
        uid: &str,
        object: &Object,
        change: impl Fn(&ObjectMeta) -> Option<serde_json::Value>,
    ) -> Result<(), Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Some(meta) = self.read(uid, object).await? else { return Ok(()) };
            let Some(mut metadata) = change(&meta) else { return Ok(()) };
            metadata["uid"] = json!(uid);
            metadata["resourceVersion"] = json!(meta.resource_version);
            let patch = json!({"metadata": metadata});
            let (client, namespace, name) = (&self.world.client, &object.namespace, &object.name);
            match client.patch::<IgnoredAny>(object.gvr, namespace, name, "", PatchKind::Merge, &patch).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn disown(&self, uid: &str, object: &Object, owners: &[String]) -> Result<(), Error> {
        self.edit(uid, object, |meta| {
            let kept: Vec<_> = meta.owner_references.iter().filter(|owner| !owners.contains(&owner.uid)).collect();
            (kept.len() < meta.owner_references.len()).then(|| json!({"ownerReferences": kept}))
        })
        .await
    }

    async fn unblock(&self, uid: &str, object: &Object) -> Result<(), Error> {
        self.edit(uid, object, |meta| {
            let mut owners = meta.owner_references.clone();
            owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
            (owners != meta.owner_references).then(|| json!({"ownerReferences": owners}))
        })
        .await
    }

    async fn remove_finalizer(&self, uid: &str, object: &Object, finalizer: &str) -> Result<(), Error> {
        self.edit(uid, object, |meta| {
            let kept: Vec<_> = meta.finalizers.iter().filter(|each| *each != finalizer).collect();
            (kept.len() < meta.finalizers.len()).then(|| json!({"finalizers": kept}))
        })
        .await
    }

    async fn orphan(&self, uid: &str, object: &Object, dependents: &[Uid]) -> Result<(), Error> {
        let owner = [uid.to_string()];
        for dependent in dependents {
            let found = self.graph.lock().get(dependent).cloned();
            if let Some(found) = found {
                self.disown(dependent, &found, &owner).await?;
            }
        }
        self.remove_finalizer(uid, object, ORPHAN).await
    }
}

impl Controller for Collector {
    const NAME: &'static str = "garbage collector";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        self.act(key).await.map(|()| None)
    }
}

fn owners_of(meta: &ObjectMeta) -> Arc<Owners> {
    static NONE: std::sync::LazyLock<Arc<Owners>> = std::sync::LazyLock::new(Arc::default);
    if meta.owner_references.is_empty() { NONE.clone() } else { Arc::new(Owners(meta.owner_references.clone())) }
}

/// One copy of each resource's description, for the graph to point to.
fn known(gvr: Gvr) -> &'static Gvr {
    static KNOWN: Mutex<Vec<&'static Gvr>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock();
    if let Some(found) = known.iter().find(|found| ***found == gvr) {
        return found;
    }
    let kept: &'static Gvr = Box::leak(Box::new(gvr));
    known.push(kept);
    kept
}
