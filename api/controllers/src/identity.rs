//! What every namespace has from its birth: the `default` service account and the API server's certificate authority.

use std::sync::Arc;
use std::time::Duration;

use kelson_wire::kube::meta::StringMap;
use kelson_wire::kube::{ApiError, Gvr};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::control;
use crate::controller::Controller;
use crate::error::Error;
use crate::queue::{Key, Queue};
use crate::view::digest;
use crate::world::{World, join};

/// The service account that pods run as unless they name another.
const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap that pods find the certificate authority in.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Keeps both in every namespace; keys are namespace names.
pub(crate) struct Identities {
    world: Arc<World>,
    queue: Queue,
    /// Content of the ConfigMap; empty if there is none to publish.
    data: StringMap,
    digest: u64,
}

impl Identities {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>, root_ca_pem: &str) -> Arc<Identities> {
        let data: StringMap = if root_ca_pem.is_empty() {
            StringMap::new()
        } else {
            [("ca.crt".to_string(), root_ca_pem.to_string())].into()
        };
        let this = Arc::new(Identities {
            world: world.clone(),
            queue: Queue::new(Duration::ZERO),
            digest: digest(&data),
            data,
        });
        let that = this.clone();
        world.namespaces.on_change(move |delta| that.queue.add(delta.latest().metadata.name.clone()));
        let that = this.clone();
        world.service_accounts.on_change(move |delta| {
            let account = &delta.latest().metadata;
            if delta.new.is_none() && &*account.name == DEFAULT_ACCOUNT {
                that.queue.add(account.namespace.clone());
            }
        });
        let that = this.clone();
        world.config_maps.on_change(move |delta| {
            let map = delta.latest();
            if &*map.metadata.name == ROOT_CA && (delta.new.is_none() || map.digest != that.digest) {
                that.queue.add(map.metadata.namespace.clone());
            }
        });
        this
    }

    async fn ensure_account(&self, namespace: &str) -> Result<(), Error> {
        if self.world.service_accounts.get(&join(namespace, DEFAULT_ACCOUNT)).is_some() {
            return Ok(());
        }
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT_ACCOUNT}});
        let created = self.world.client.create::<IgnoredAny>(&Gvr::SERVICE_ACCOUNTS, namespace, &account).await;
        settled(created)
    }

    async fn ensure_root_ca(&self, namespace: &str) -> Result<(), Error> {
        if self.data.is_empty() {
            return Ok(());
        }
        let found = self.world.config_maps.get(&join(namespace, ROOT_CA));
        if let Some(found) = found {
            if found.digest == self.digest {
                return Ok(());
            }
            // A merge keeps what it does not name; another writer's keys go with a whole replacement.
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": self.data,
                "metadata": {"name": ROOT_CA, "namespace": namespace, "resourceVersion": found.metadata.resource_version},
            });
            let client = &self.world.client;
            client.update::<IgnoredAny>(&Gvr::CONFIG_MAPS, namespace, ROOT_CA, "", &map).await?;
            return Ok(());
        }
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": self.data,
            "metadata": {
                "name": ROOT_CA,
                "annotations": {"kubernetes.io/description": "Certificate authority of the API server's own certificate."},
            },
        });
        settled(self.world.client.create::<IgnoredAny>(&Gvr::CONFIG_MAPS, namespace, &map).await)
    }
}

/// Somebody else made it, or the namespace ends: both are fine.
fn settled(created: Result<IgnoredAny, ApiError>) -> Result<(), Error> {
    match created {
        Err(error) if error.is_already_exists() || error.is_not_found() => Ok(()),
        Err(error) if control::is_namespace_ending(&error) => Ok(()),
        created => {
            created?;
            Ok(())
        }
    }
}

impl Controller for Identities {
    const NAME: &'static str = "service account";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let alive = self.world.namespaces.get(key).is_some_and(|namespace| !namespace.metadata.is_terminating());
        if alive {
            self.ensure_account(key).await?;
            self.ensure_root_ca(key).await?;
        }
        Ok(None)
    }
}
