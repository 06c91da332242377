//! The loop between the API and the model: takes in what came, places a batch, sends what is to be sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kelson_sched::DeviceHold;
use kelson_wire::kube::{ApiError, Client, Keyed, Recorder};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::binder;
use super::devices::{self, ResourceClaimView};
use super::eviction::Eviction;
use super::inbox::Inbox;
use super::metrics::{Attempt, Metrics};
use super::model::{Binding, DEFAULT_SCHEDULER, Model, Next, Outcome, Report, Sending};
use super::spreading::OwnerKind;
use super::storage::{self, Written};

/// Events per second, in the long run, that say that a pod was placed.
const SCHEDULED_EVENTS: u32 = 20;
/// The same for pods that could not be placed: they have their own allowance.
const FAILED_EVENTS: u32 = 20;
/// A batch of at most this many is placed on the spot; a larger one where blocking is allowed.
const SMALL_BATCH: usize = 256;
/// Pause before a binding without an answer is sent again, doubling to [`MAX_RESEND`].
const MIN_RESEND: Duration = Duration::from_millis(100);
const MAX_RESEND: Duration = Duration::from_secs(10);
/// How long a shutdown waits for the answers of bindings that were sent.
const DRAIN: Duration = Duration::from_secs(5);

/// An answer from the API.
enum Answer {
    /// With the claims that are no longer reserved for the pod, if it was refused.
    Binding(Sending, Outcome, Duration, Vec<Arc<ResourceClaimView>>),
    /// What has to be written first was, or not.
    Volumes(Sending, Result<Written, ApiError>, Duration),
    /// The same of claims for devices, which were held while nobody knew.
    Devices(Sending, Option<DeviceHold>, devices::Written, Duration),
    /// A claim whose devices were freed.
    Deallocated(Result<Arc<ResourceClaimView>, ApiError>),
    /// About a binding that the watch should have shown.
    Look(Binding, Outcome),
}

pub struct Driver {
    client: Client,
    config: Config,
    metrics: Arc<Metrics>,
    inbox: Arc<Inbox>,
    model: Model,
    started: Instant,
    /// Placed, and not sent yet: no batch is placed while more than half a batch waits here.
    to_bind: VecDeque<Sending>,
    /// Without an answer, by the time at which they are sent again: each pod that is placed at most once.
    to_resend: BTreeMap<(u64, u64), Sending>,
    bindings: JoinSet<Answer>,
    reports: JoinSet<Result<(), kelson_sched::PodId>>,
    evictions: JoinSet<(Eviction, Result<(), ApiError>)>,
    scheduled_events: Recorder,
    failed_events: Recorder,
    sequence: u64,
}

impl Driver {
    pub fn new(client: Client, config: Config, metrics: Arc<Metrics>, inbox: Arc<Inbox>) -> Driver {
        let model = Model::new(config.profiles.clone(), config.workers, config.seed, config.waits, metrics.clone());
        Driver {
            model,
            started: Instant::now(),
            to_bind: VecDeque::new(),
            to_resend: BTreeMap::new(),
            bindings: JoinSet::new(),
            reports: JoinSet::new(),
            evictions: JoinSet::new(),
            scheduled_events: Recorder::new(client.clone(), DEFAULT_SCHEDULER, SCHEDULED_EVENTS),
            failed_events: Recorder::new(client.clone(), DEFAULT_SCHEDULER, FAILED_EVENTS),
            sequence: 0,
            client,
            config,
            metrics,
            inbox,
        }
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.take_in();
            if !self.place().await {
                return;
            }
            self.send();
            self.metrics.set_sizes(self.model.sizes());
            // Nothing more can be done until something happens.
            let wake = self.next_wake();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.inbox.arrived() => {}
                Some(answer) = self.bindings.join_next() => self.answered(answer),
                Some(told) = self.reports.join_next() => self.told(told),
                Some(evicted) = self.evictions.join_next() => self.evicted(evicted),
                () = sleep_until(wake) => {}
            }
        }
        let drained = async { while self.bindings.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("stopped with bindings that nobody answered");
        }
    }

    /// Reads everything that has come.
    fn take_in(&mut self) {
        while let Some(answer) = self.bindings.try_join_next() {
            self.answered(answer);
        }
        while let Some(told) = self.reports.try_join_next() {
            self.told(told);
        }
        let now = self.now();
        while let Some(evicted) = self.evictions.try_join_next() {
            self.evicted(evicted);
        }
        let (inbox, model) = (self.inbox.clone(), &mut self.model);
        inbox.namespaces.take().iter().for_each(|delta| model.namespace_changed(delta, now));
        inbox.budgets.take().iter().for_each(|delta| model.budget_changed(delta));
        inbox.services.take().iter().for_each(|delta| model.spreading.service_changed(delta));
        for delta in inbox.replication_controllers.take() {
            model.spreading.pairs_owner_changed(OwnerKind::ReplicationController, &delta);
        }
        for (kind, slot) in
            [(OwnerKind::ReplicaSet, &inbox.replica_sets), (OwnerKind::StatefulSet, &inbox.stateful_sets)]
        {
            slot.take().iter().for_each(|delta| model.spreading.selector_owner_changed(kind, delta));
        }
        inbox.pod_groups.take().iter().for_each(|delta| model.group_changed(delta, now));
        inbox.nodes.take().iter().for_each(|delta| model.node_changed(delta, now));
        inbox.storage_classes.take().iter().for_each(|delta| model.class_changed(delta, now));
        inbox.csi_drivers.take().iter().for_each(|delta| model.driver_changed(delta, now));
        inbox.csi_nodes.take().iter().for_each(|delta| model.limits_changed(delta, now));
        inbox.capacities.take().iter().for_each(|delta| model.capacity_changed(delta, now));
        inbox.attachments.take().iter().for_each(|delta| model.attachment_changed(delta, now));
        // Volumes before the claims that name them, claims before the pods that do.
        inbox.volumes.take().iter().for_each(|delta| model.volume_changed(delta, now));
        inbox.claims.take().iter().for_each(|delta| model.claim_changed(delta, now));
        // Slices and classes before the claims that ask for devices.
        inbox.resource_slices.take().iter().for_each(|delta| model.resource_slice_changed(delta, now));
        inbox.device_classes.take().iter().for_each(|delta| model.device_class_changed(delta, now));
        inbox.resource_claims.take().iter().for_each(|delta| model.resource_claim_changed(delta, now));
        inbox.pods.take().iter().for_each(|delta| model.pod_changed(delta, now));
        self.settle();
    }

    /// Goes on with the pods whose claims are bound, or will not be.
    fn settle(&mut self) {
        let now = self.now();
        for (sending, outcome) in self.model.settled(now) {
            match outcome {
                Ok(()) => self.to_bind.push_front(Sending { next: Next::Devices, ..sending }),
                Err(why) => self.refuse(sending, "VolumeBinding", &why, now),
            }
        }
    }

    /// A pod's claims cannot be had as was decided: it comes again.
    fn refuse(&mut self, sending: Sending, plugin: &str, why: &str, now: u64) {
        let outcome = Outcome::Refused(format!("running PreBind plugin {plugin:?}: {why}"));
        self.metrics.attempted(sending.binding.profile, Attempt::Error, 1, sending.began.elapsed());
        self.model.binding_ended(sending.binding, outcome, now, now);
    }

    /// Places a batch, if pods wait and the last batch is mostly sent. False if the runtime ends.
    async fn place(&mut self) -> bool {
        let now = self.now();
        self.model.wake(now);
        if self.model.ready() == 0 || self.to_bind.len() > self.config.batch / 2 {
            return true;
        }
        let limit = self.config.batch.max(1);
        let began = Instant::now();
        let batch = if self.model.ready().min(limit) <= SMALL_BATCH {
            self.model.schedule(limit, now)
        } else {
            let empty = Model::new(Vec::new(), 1, 0, self.config.waits, self.metrics.clone());
            let mut model = std::mem::replace(&mut self.model, empty);
            let placed = tokio::task::spawn_blocking(move || {
                let batch = model.schedule(limit, now);
                (model, batch)
            });
            match placed.await {
                Ok((model, batch)) => {
                    self.model = model;
                    batch
                }
                // The model went with it: nothing can go on.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return false,
            }
        };
        let pods = batch.bindings.len() + batch.unschedulable.values().sum::<usize>();
        self.metrics.decided(pods, began.elapsed());
        for (profile, pods) in &batch.unschedulable {
            self.metrics.attempted(*profile, Attempt::Unschedulable, *pods, began.elapsed());
        }
        self.to_bind.extend(batch.bindings.into_iter().map(|binding| Sending { binding, began, next: Next::Volumes }));
        // What is beyond the bound is asked for with the pod's next attempt.
        let room = self.config.bindings_in_flight.saturating_sub(self.bindings.len());
        for claim in batch.deallocations.into_iter().take(room) {
            let client = self.client.clone();
            self.bindings
                .spawn(async move { Answer::Deallocated(devices::deallocate(&client, &claim).await.map(Arc::new)) });
        }
        true
    }

    /// Sends what may be sent.
    fn send(&mut self) {
        let now = self.now();
        while let Some(entry) = self.to_resend.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let sending = entry.remove();
            if self.model.awaits(&sending.binding) {
                self.to_bind.push_front(sending);
            }
        }
        let confirm_within = u64::try_from(self.config.confirm_within.as_millis()).unwrap_or(u64::MAX);
        for binding in self.model.overdue(now.saturating_add(confirm_within), now) {
            let client = self.client.clone();
            self.bindings.spawn(async move {
                let outcome = binder::look(&client, &binding).await;
                Answer::Look(binding, outcome)
            });
        }
        while self.bindings.len() < self.config.bindings_in_flight.max(1)
            && let Some(mut sending) = self.to_bind.pop_front()
        {
            let client = self.client.clone();
            let awaited = self.model.awaits(&sending.binding);
            if awaited && sending.next == Next::Volumes {
                match self.model.volume_writes(&sending.binding) {
                    None => {}
                    Some(Ok(writes)) => {
                        self.bindings.spawn(async move {
                            let sent = Instant::now();
                            let outcome = storage::write(&client, &writes).await;
                            Answer::Volumes(sending, outcome, sent.elapsed())
                        });
                        continue;
                    }
                    Some(Err(why)) => {
                        self.refuse(sending, "VolumeBinding", &why, now);
                        continue;
                    }
                }
                sending.next = Next::Devices;
            }
            if awaited && sending.next == Next::Devices {
                match self.model.device_writes(&sending.binding) {
                    None => {}
                    Some(Ok((writes, hold))) => {
                        self.bindings.spawn(async move {
                            let sent = Instant::now();
                            let written = devices::write(&client, &writes).await;
                            Answer::Devices(sending, hold, written, sent.elapsed())
                        });
                        continue;
                    }
                    Some(Err(why)) => {
                        self.refuse(sending, "DynamicResources", &why, now);
                        continue;
                    }
                }
            }
            let reserved = self.model.reserved(&sending.binding);
            self.bindings.spawn(async move {
                let sent = Instant::now();
                let outcome = binder::bind(&client, &sending.binding).await;
                let took = sent.elapsed();
                // Before it is tried again: it may be placed elsewhere, or never.
                let released = match &outcome {
                    Outcome::Refused(_) => devices::release(&client, reserved, &sending.binding.view.meta().uid).await,
                    _ => Vec::new(),
                };
                Answer::Binding(sending, outcome, took, released)
            });
        }
        while self.reports.len() < self.config.reports_in_flight.max(1)
            && let Some(report) = self.model.next_report()
        {
            self.tell(report);
        }
        while self.evictions.len() < self.config.evictions_in_flight.max(1)
            && let Some(eviction) = self.model.next_eviction()
        {
            let client = self.client.clone();
            self.evictions.spawn(async move {
                let answer = binder::evict(&client, &eviction).await;
                (eviction, answer)
            });
        }
    }

    fn evicted(&mut self, evicted: Result<(Eviction, Result<(), ApiError>), tokio::task::JoinError>) {
        match evicted {
            Ok((eviction, Ok(()))) => {
                let message = format!("Preempted by pod {} on node {}", eviction.preemptor, eviction.node);
                self.scheduled_events.event(&eviction.victim.reference(), "Normal", "Preempted", &message);
            }
            Ok((eviction, Err(error))) => {
                tracing::warn!(%error, pod = &*eviction.victim.meta().name, "pod not evicted");
                self.model.eviction_ended(eviction.id);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn tell(&mut self, report: Report) {
        self.failed_events.event(&report.view.reference(), "Warning", "FailedScheduling", &report.message);
        let client = self.client.clone();
        self.reports.spawn(async move {
            binder::report(&client, &report).await.map_err(|error| {
                tracing::debug!(%error, "condition not written");
                report.id
            })
        });
    }

    fn told(&mut self, told: Result<Result<(), kelson_sched::PodId>, tokio::task::JoinError>) {
        if let Ok(Err(id)) = told {
            self.model.report_lost(id);
        }
    }

    fn answered(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        let now = self.now();
        let within = u64::try_from(self.config.confirm_within.as_millis()).unwrap_or(u64::MAX);
        let confirm_by = now.saturating_add(within);
        match answer {
            Ok(Answer::Binding(sending, outcome, took, released)) => {
                self.model.claims_answered(&released, now);
                self.count(&sending, &outcome, took, now);
                let Sending { binding, began, .. } = sending;
                if let Some(again) = self.model.binding_ended(binding, outcome, confirm_by, now) {
                    let doublings = again.unanswered.saturating_sub(1).min(10);
                    let pause = MIN_RESEND.saturating_mul(1 << doublings).min(MAX_RESEND);
                    self.sequence += 1;
                    let at = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                    self.to_resend.insert((at, self.sequence), Sending { binding: again, began, next: Next::Bind });
                }
            }
            Ok(Answer::Volumes(sending, written, took)) => {
                self.metrics.point(
                    sending.binding.profile,
                    "PreBind",
                    if written.is_ok() { "Success" } else { "Error" },
                    took,
                );
                match written {
                    Ok(written) => self.model.await_volumes(sending, written, now),
                    Err(error) => self.refuse(sending, "VolumeBinding", &message(error), now),
                }
                self.settle();
            }
            Ok(Answer::Devices(sending, hold, written, took)) => {
                let told = if written.outcome.is_ok() { "Success" } else { "Error" };
                self.metrics.point(sending.binding.profile, "PreBind", told, took);
                // What the claims have now before what they were promised ends.
                self.model.claims_answered(&written.claims, now);
                self.model.release_devices(hold, now);
                match written.outcome {
                    Ok(()) if self.model.awaits(&sending.binding) => {
                        self.to_bind.push_front(Sending { next: Next::Bind, ..sending });
                    }
                    // Nobody reserves for a pod that is gone: the claims' controller takes it out.
                    Ok(()) => {}
                    Err(why) => self.refuse(sending, "DynamicResources", &why, now),
                }
            }
            Ok(Answer::Deallocated(Ok(claim))) => self.model.claims_answered(&[claim], now),
            Ok(Answer::Deallocated(Err(error))) => tracing::debug!(%error, "devices not freed"),
            Ok(Answer::Look(binding, outcome)) => {
                // Without an answer it is asked about again in its turn.
                self.model.binding_ended(binding, outcome, confirm_by, now);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Cancelled: the runtime ends.
            Err(_) => {}
        }
    }

    /// Notes how a binding ended, for those who watch.
    fn count(&mut self, sending: &Sending, outcome: &Outcome, took: Duration, now: u64) {
        let binding = &sending.binding;
        match outcome {
            Outcome::Bound => {
                self.metrics.attempted(binding.profile, Attempt::Scheduled, 1, sending.began.elapsed());
                self.metrics.bound(binding.attempts, Duration::from_millis(now.saturating_sub(binding.since)));
                self.metrics.point(binding.profile, "Bind", "Success", took);
                self.say_bound(binding);
            }
            Outcome::Refused(_) => {
                self.metrics.attempted(binding.profile, Attempt::Error, 1, sending.began.elapsed());
                self.metrics.point(binding.profile, "Bind", "Error", took);
            }
            Outcome::Unknown(why) => tracing::debug!(%why, node = &*binding.node, "binding not answered"),
            Outcome::Changed(_) | Outcome::Gone => {}
        }
    }

    fn say_bound(&self, binding: &Binding) {
        let reference = binding.view.reference();
        let message = format!("Successfully assigned {}/{} to {}", reference.namespace, reference.name, binding.node);
        self.scheduled_events.event(&reference, "Normal", "Scheduled", &message);
    }

    fn next_wake(&self) -> Option<Instant> {
        if self.model.ready() > 0 && self.to_bind.len() <= self.config.batch / 2 {
            return Some(Instant::now());
        }
        let resend = self.to_resend.first_key_value().map(|((at, _), _)| *at);
        let at = self.model.next_wake().into_iter().chain(resend).min()?;
        Some(self.started + Duration::from_millis(at))
    }
}

/// The server's own words, where it had some.
fn message(error: ApiError) -> String {
    match error {
        ApiError::Status { message, .. } => message,
        error => error.to_string(),
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
