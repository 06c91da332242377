//! Leader election by lease, so that of several processes one at a time does the work.
//!
//! The protocol is client-go's: whoever holds the lease renews it; whoever has seen it unchanged for its whole duration, by
//! its own clock, may take it. Every write is guarded by the resource version that was read.

use std::future::Future;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Client, Gvr, timestamp};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Where control plane components keep their leases.
const NAMESPACE: &str = "kube-system";

/// A candidate for one lease.
pub struct Election {
    client: Client,
    name: String,
    identity: String,
    /// For how long the lease holds without renewal.
    lease_duration: Duration,
    /// A leader that could not renew for this long stops; shorter than the lease, so that it stops before another starts.
    renew_deadline: Duration,
    /// Time between two attempts.
    retry_period: Duration,
}

/// The state of the lease that was last seen to change.
#[derive(Default)]
struct Observed {
    resource_version: String,
    at: Option<Instant>,
}

impl Election {
    /// A candidate for the lease `kube-system/<name>` (`kube-controller-manager`, `kube-scheduler`). `identity` must differ between
    /// processes. Durations are upstream's: 15 s, 10 s and 2 s.
    pub fn new(client: Client, name: &str, identity: &str) -> Election {
        Election {
            client,
            name: name.to_string(),
            identity: identity.to_string(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// The same with other durations, which must decrease in this order.
    pub fn with_durations(self, lease: Duration, renew_deadline: Duration, retry_period: Duration) -> Election {
        Election { lease_duration: lease, renew_deadline, retry_period, ..self }
    }

    /// Waits for the lease, runs `work` while holding it, gives it back at the end. The token that `work` gets is cancelled
    /// by `shutdown`, and when the lease is lost.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if renewal failed for too long (the process should exit or start over); otherwise what `work` returned.
    pub async fn lead<F: Future<Output = Result<(), Error>>>(
        &self,
        shutdown: CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<(), Error> {
        if shutdown.run_until_cancelled(self.acquire()).await.is_none() {
            return Ok(());
        }
        tracing::info!(lease = self.name, identity = self.identity, "leading");
        let leading = shutdown.child_token();
        let work = work(leading.clone());
        tokio::pin!(work);
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            holder = self.renew() => {
                leading.cancel();
                // Let it end what it has begun; it cannot begin anything any more.
                work.await?;
                return Err(Error::LeaseLost(holder));
            }
        };
        self.release().await;
        outcome
    }

    async fn acquire(&self) {
        let mut observed = Observed::default();
        loop {
            match self.attempt(&mut observed).await {
                Ok(None) => return,
                Ok(Some(holder)) => tracing::debug!(lease = self.name, holder, "another process leads"),
                Err(error) => tracing::debug!(lease = self.name, %error, "cannot take the lease yet"),
            }
            sleep(self.retry_period).await;
        }
    }

    /// Renews until that fails for too long. Returns who holds the lease then.
    async fn renew(&self) -> String {
        let mut renewed = Instant::now();
        let mut holder = String::from("nobody");
        loop {
            sleep(self.retry_period).await;
            let mut observed = Observed::default();
            // A call that hangs must not outlive the deadline.
            match tokio::time::timeout(self.renew_deadline, self.attempt(&mut observed)).await {
                Ok(Ok(None)) => renewed = Instant::now(),
                Ok(Ok(Some(other))) => return other,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, %error, "lease not renewed");
                    holder = "unknown".into();
                }
                Err(_) => {}
            }
            if renewed.elapsed() > self.renew_deadline {
                return holder;
            }
        }
    }

    /// Takes or renews the lease. Returns its holder if that is another one whose time is not over.
    async fn attempt(&self, observed: &mut Observed) -> Result<Option<String>, Error> {
        let now = timestamp::format_micro(SystemTime::now());
        let mut lease: Value = match self.client.get(&Gvr::LEASES, NAMESPACE, &self.name).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => {
                let lease = json!({
                    "apiVersion": Gvr::LEASES.api_version(), "kind": Gvr::LEASES.kind,
                    "metadata": {"name": self.name, "namespace": NAMESPACE},
                    "spec": self.spec(&now, &now, 0),
                });
                self.client.create::<IgnoredAny>(&Gvr::LEASES, NAMESPACE, &lease).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let holder = text(&lease["spec"]["holderIdentity"]);
        let transitions = lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
        let version = text(&lease["metadata"]["resourceVersion"]);
        if observed.at.is_none() || observed.resource_version != version {
            *observed = Observed { resource_version: version, at: Some(Instant::now()) };
        }
        let is_ours = holder == self.identity;
        let seconds = lease["spec"]["leaseDurationSeconds"].as_u64().map_or(self.lease_duration, Duration::from_secs);
        let expired = observed.at.is_some_and(|at| at.elapsed() > seconds);
        if !is_ours && !holder.is_empty() && !expired {
            return Ok(Some(holder));
        }
        let acquired = if is_ours { text(&lease["spec"]["acquireTime"]) } else { now.clone() };
        lease["spec"] = self.spec(&acquired, &now, transitions + i64::from(!is_ours));
        self.client.update::<IgnoredAny>(&Gvr::LEASES, NAMESPACE, &self.name, "", &lease).await?;
        Ok(None)
    }

    /// Lets the next one begin at once. Best effort: without it the lease ends by itself.
    async fn release(&self) {
        let Ok(mut lease) = self.client.get::<Value>(&Gvr::LEASES, NAMESPACE, &self.name).await else { return };
        if lease["spec"]["holderIdentity"] == self.identity.as_str() {
            lease["spec"]["holderIdentity"] = json!("");
            lease["spec"]["leaseDurationSeconds"] = json!(1);
            let _ = self.client.update::<IgnoredAny>(&Gvr::LEASES, NAMESPACE, &self.name, "", &lease).await;
        }
    }

    fn spec(&self, acquired: &str, renewed: &str, transitions: i64) -> Value {
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.lease_duration.as_secs().max(1),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        })
    }
}
