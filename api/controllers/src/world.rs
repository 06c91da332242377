//! What all controllers share: the client, the caches and their indexes.

use std::sync::Arc;

use kelson_wire::kube::{Client, Gvr, Keyed, ObjectMeta};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::informer::{Index, Informer};
use crate::view::{
    ConfigMap, ControllerRevision, DaemonSet, Deployment, EndpointSlice, Endpoints, Job, Lease, Namespace, Node, Pod,
    ReplicaSet, Service, Stub,
};

/// Objects by the uid of their controller.
pub(crate) type ByOwner<T> = Arc<Index<Arc<str>, T>>;
/// Objects by namespace.
pub(crate) type ByNamespace<T> = Arc<Index<Arc<str>, T>>;

/// The shared view of the cluster, and the way to change it.
pub(crate) struct World {
    pub client: Client,
    pub pods: Arc<Informer<Pod>>,
    pub pods_by_owner: ByOwner<Pod>,
    pub pods_by_namespace: ByNamespace<Pod>,
    /// Pods without a controller, which one may adopt.
    pub orphan_pods: ByNamespace<Pod>,
    /// Pods by node name; those that are not bound under the empty name.
    pub pods_by_node: Arc<Index<Arc<String>, Pod>>,
    /// Pods that have ended, all under one key.
    pub finished_pods: Arc<Index<(), Pod>>,
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    pub replica_sets_by_owner: ByOwner<ReplicaSet>,
    pub orphan_replica_sets: ByNamespace<ReplicaSet>,
    pub replica_sets_by_namespace: ByNamespace<ReplicaSet>,
    pub deployments: Arc<Informer<Deployment>>,
    pub deployments_by_namespace: ByNamespace<Deployment>,
    pub daemon_sets: Arc<Informer<DaemonSet>>,
    pub daemon_sets_by_namespace: ByNamespace<DaemonSet>,
    pub revisions: Arc<Informer<ControllerRevision>>,
    pub revisions_by_owner: ByOwner<ControllerRevision>,
    pub jobs: Arc<Informer<Job>>,
    pub nodes: Arc<Informer<Node>>,
    pub leases: Arc<Informer<Lease>>,
    pub namespaces: Arc<Informer<Namespace>>,
    pub service_accounts: Arc<Informer<Stub>>,
    pub config_maps: Arc<Informer<ConfigMap>>,
    pub services: Arc<Informer<Service>>,
    pub services_by_namespace: ByNamespace<Service>,
    pub endpoints: Arc<Informer<Endpoints>>,
    pub slices: Arc<Informer<EndpointSlice>>,
    /// EndpointSlices by `namespace/service`.
    pub slices_by_service: Arc<Index<Arc<str>, EndpointSlice>>,
}

/// Label of an EndpointSlice: the Service it belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl World {
    /// Caches that are still empty.
    pub(crate) fn new(client: Client) -> World {
        let pods = Informer::<Pod>::new(Gvr::PODS);
        let replica_sets = Informer::<ReplicaSet>::new(Gvr::REPLICA_SETS);
        let deployments = Informer::<Deployment>::new(Gvr::DEPLOYMENTS);
        let daemon_sets = Informer::<DaemonSet>::new(Gvr::DAEMON_SETS);
        let revisions = Informer::<ControllerRevision>::new(Gvr::CONTROLLER_REVISIONS);
        let services = Informer::<Service>::new(Gvr::SERVICES);
        let slices = Informer::<EndpointSlice>::new(Gvr::ENDPOINT_SLICES);
        World {
            client,
            pods_by_owner: pods.index(|pod| pod.controller().map(|owner| Arc::from(owner.uid.as_str()))),
            pods_by_namespace: pods.index(namespace),
            orphan_pods: pods.index(|pod| pod.controller().is_none().then(|| pod.metadata.namespace.clone())),
            pods_by_node: pods.index(|pod| Some(pod.node.clone())),
            finished_pods: pods.index(|pod| pod.is_finished().then_some(())),
            pods,
            replica_sets_by_owner: replica_sets.index(controller),
            orphan_replica_sets: replica_sets.index(orphan),
            replica_sets_by_namespace: replica_sets.index(namespace),
            replica_sets,
            deployments_by_namespace: deployments.index(namespace),
            deployments,
            daemon_sets_by_namespace: daemon_sets.index(namespace),
            daemon_sets,
            revisions_by_owner: revisions.index(controller),
            revisions,
            jobs: Informer::new(Gvr::JOBS),
            nodes: Informer::new(Gvr::NODES),
            leases: Informer::new(Gvr::LEASES),
            namespaces: Informer::new(Gvr::NAMESPACES),
            service_accounts: Informer::new(Gvr::SERVICE_ACCOUNTS),
            config_maps: Informer::new(Gvr::CONFIG_MAPS),
            services_by_namespace: services.index(namespace),
            services,
            endpoints: Informer::new(Gvr::ENDPOINTS),
            slices_by_service: slices.index(|slice: &EndpointSlice| {
                let service = slice.metadata.labels.get(SERVICE_NAME)?;
                Some(join(&slice.metadata.namespace, service))
            }),
            slices,
        }
    }

    /// Starts the reflectors.
    pub(crate) fn start(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        macro_rules! start {
            ($($informer:ident)*) => {$({
                let (informer, client, shutdown) = (self.$informer.clone(), self.client.clone(), shutdown.clone());
                tasks.spawn(async move {
                    let _ = shutdown.run_until_cancelled_owned(informer.run(client)).await;
                });
            })*};
        }
        start!(pods replica_sets deployments daemon_sets revisions jobs nodes leases namespaces service_accounts);
        start!(config_maps services endpoints slices);
    }

    /// Returns once every cache is complete: controllers never act on half a view.
    pub(crate) async fn wait_synced(&self) {
        macro_rules! wait {
            ($($informer:ident)*) => { $(self.$informer.wait_synced().await;)* };
        }
        wait!(pods replica_sets deployments daemon_sets revisions jobs nodes leases namespaces service_accounts);
        wait!(config_maps services endpoints slices);
    }
}

/// `namespace/name` as a queue key.
pub(crate) fn join(namespace: &str, name: &str) -> Arc<str> {
    let mut key = String::with_capacity(namespace.len() + 1 + name.len());
    key.push_str(namespace);
    key.push('/');
    key.push_str(name);
    key.into()
}

/// The parts of a `namespace/name` key.
pub(crate) fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// Key of the object that a controller reference points to, if it is of this kind.
pub(crate) fn controller_key(meta: &ObjectMeta, kind: &str) -> Option<Arc<str>> {
    meta.controller().filter(|owner| owner.kind == kind).map(|owner| join(&meta.namespace, &owner.name))
}

fn namespace<T: Keyed>(object: &T) -> Option<Arc<str>> {
    Some(object.meta().namespace.clone())
}

fn controller<T: Keyed>(object: &T) -> Option<Arc<str>> {
    object.meta().controller().map(|owner| Arc::from(owner.uid.as_str()))
}

fn orphan<T: Keyed>(object: &T) -> Option<Arc<str>> {
    object.meta().controller().is_none().then(|| object.meta().namespace.clone())
}
