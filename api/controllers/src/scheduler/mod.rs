//! The scheduler: feeds the core with what the API tells, and the API with what the core decides.
//!
//! Two reflectors keep nodes and pods; their changes reach the model as deltas. All pods that wait form a batch, the
//! core places it, and the bindings go out many at a time: each is one guarded write of the API, and the store commits
//! those that wait together. Nothing runs while nothing changes.
//!
//! Run at most one per cluster and scheduler name (leader election is the caller's): two would not bind a pod twice,
//! but each would fill nodes unaware of the other until its watch shows the other's bindings.

mod binder;
mod eviction;
mod inbox;
mod model;
mod others;
mod raw;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kelson_sched::Waits;
use kelson_wire::kube::{ApiError, Cache, Client, Gvr, Keyed, ListParams, Recorder, Reflector};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use eviction::Eviction;
use inbox::Inbox;
pub use model::DEFAULT_SCHEDULER;
use model::{Binding, Model, Outcome, Report};
use view::{BudgetView, NamespaceView, NodeView, PodView};

/// Events per second, in the long run, that say that a pod was placed.
const SCHEDULED_EVENTS: u32 = 20;
/// The same for pods that could not be placed: they have their own allowance.
const FAILED_EVENTS: u32 = 20;
/// A batch of at most this many is placed on the spot; a larger one where blocking is allowed.
const SMALL_BATCH: usize = 256;
/// Pause before a binding without an answer is sent again, doubling to [`MAX_RESEND`].
const MIN_RESEND: Duration = Duration::from_millis(100);
const MAX_RESEND: Duration = Duration::from_secs(10);
/// PodDisruptionBudgets.
const BUDGETS: Gvr = Gvr {
    group: "policy",
    version: "v1",
    resource: "poddisruptionbudgets",
    kind: "PodDisruptionBudget",
    namespaced: true,
};
/// How long a shutdown waits for the answers of bindings that were sent.
const DRAIN: Duration = Duration::from_secs(5);

/// How the scheduler works. The default is what `kelson dev` runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Threads that place a large batch together, at least 1.
    pub workers: usize,
    /// Pods placed in one batch at most. What exceeds it waits for the next one, in order.
    pub batch: usize,
    /// Bindings sent and not answered at most. Pods that are placed wait for their turn.
    pub bindings_in_flight: usize,
    /// Status writes of pods that cannot be placed, sent and not answered at most.
    pub reports_in_flight: usize,
    /// Evictions of pods that make room for others, sent and not answered at most.
    pub evictions_in_flight: usize,
    /// Backoff and flush of pods that could not be placed.
    pub waits: Waits,
    /// A binding that the API took and the watch has not shown for so long is asked about.
    pub confirm_within: Duration,
    /// Decides among equally good nodes.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            scheduler_name: DEFAULT_SCHEDULER.to_string(),
            workers: 1,
            batch: 4096,
            bindings_in_flight: 128,
            reports_in_flight: 16,
            evictions_in_flight: 32,
            waits: Waits::default(),
            confirm_within: Duration::from_secs(30),
            seed: rand::random(),
        }
    }
}

/// Schedules until `shutdown`, then waits a few seconds for the answers that are under way.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) {
    let inbox = Arc::new(Inbox::new());
    let (nodes, pods) = (Cache::<NodeView>::new(), Cache::<PodView>::new());
    let (namespaces, budgets) = (Cache::<NamespaceView>::new(), Cache::<BudgetView>::new());
    let mut reflectors = JoinSet::new();
    reflectors.spawn({
        let (reflector, cache, inbox) = (Reflector::all(client.clone(), Gvr::NODES), nodes.clone(), inbox.clone());
        async move { reflector.run(cache, move |deltas| inbox.push_nodes(deltas)).await }
    });
    reflectors.spawn({
        let (reflector, cache, inbox) = (Reflector::all(client.clone(), Gvr::PODS), pods.clone(), inbox.clone());
        async move { reflector.run(cache, move |deltas| inbox.push_pods(deltas)).await }
    });
    reflectors.spawn({
        let reflector = Reflector::all(client.clone(), Gvr::NAMESPACES);
        let (cache, inbox) = (namespaces.clone(), inbox.clone());
        async move { reflector.run(cache, move |deltas| inbox.push_namespaces(deltas)).await }
    });
    // A server without budgets has none to respect.
    let page = ListParams { limit: 1, ..ListParams::default() };
    let served = client.list::<serde::de::IgnoredAny>(&BUDGETS, "", &page).await;
    let served = !served.is_err_and(|error| error.is_not_found());
    if served {
        let reflector = Reflector::all(client.clone(), BUDGETS);
        let (cache, inbox) = (budgets.clone(), inbox.clone());
        reflectors.spawn(async move { reflector.run(cache, move |deltas| inbox.push_budgets(deltas)).await });
    }
    // Half the truth would place pods on capacity that is taken.
    let synced = async {
        tokio::join!(nodes.wait_synced(), pods.wait_synced(), namespaces.wait_synced());
        if served {
            budgets.wait_synced().await;
        }
    };
    tokio::select! {
        () = synced => {}
        () = shutdown.cancelled() => return,
    }
    tracing::info!(nodes = nodes.len(), pods = pods.len(), "scheduler started");
    Driver::new(client, config, inbox).run(shutdown).await;
}

/// An answer from the API.
enum Answer {
    Binding(Binding, Outcome),
    /// About a binding that the watch should have shown.
    Look(Binding, Outcome),
}

struct Driver {
    client: Client,
    config: Config,
    inbox: Arc<Inbox>,
    model: Model,
    started: Instant,
    /// Placed, and not sent yet: no batch is placed while more than half a batch waits here.
    to_bind: VecDeque<Binding>,
    /// Without an answer, by the time at which they are sent again: each pod that is placed at most once.
    to_resend: BTreeMap<(u64, u64), Binding>,
    bindings: JoinSet<Answer>,
    reports: JoinSet<Result<(), kelson_sched::PodId>>,
    evictions: JoinSet<(Eviction, Result<(), ApiError>)>,
    scheduled_events: Recorder,
    failed_events: Recorder,
    sequence: u64,
}

impl Driver {
    fn new(client: Client, config: Config, inbox: Arc<Inbox>) -> Driver {
        Driver {
            model: Model::new(&config.scheduler_name, config.workers, config.seed, config.waits),
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
            inbox,
        }
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.take_in();
            if !self.place().await {
                return;
            }
            self.send();
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
        let arrived = self.inbox.take();
        arrived.namespaces.iter().for_each(|delta| self.model.namespace_changed(delta, now));
        arrived.budgets.iter().for_each(|delta| self.model.budget_changed(delta));
        arrived.nodes.iter().for_each(|delta| self.model.node_changed(delta, now));
        arrived.pods.iter().for_each(|delta| self.model.pod_changed(delta, now));
    }

    /// Places a batch, if pods wait and the last batch is mostly sent. False if the runtime ends.
    async fn place(&mut self) -> bool {
        let now = self.now();
        self.model.wake(now);
        if self.model.ready() == 0 || self.to_bind.len() > self.config.batch / 2 {
            return true;
        }
        let limit = self.config.batch.max(1);
        let bindings = if self.model.ready().min(limit) <= SMALL_BATCH {
            self.model.schedule(limit, now)
        } else {
            let empty = Model::new("", 1, 0, self.config.waits);
            let mut model = std::mem::replace(&mut self.model, empty);
            let placed = tokio::task::spawn_blocking(move || {
                let bindings = model.schedule(limit, now);
                (model, bindings)
            });
            match placed.await {
                Ok((model, bindings)) => {
                    self.model = model;
                    bindings
                }
                // The model went with it: nothing can go on.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return false,
            }
        };
        self.to_bind.extend(bindings);
        true
    }

    /// Sends what may be sent.
    fn send(&mut self) {
        let now = self.now();
        while let Some(entry) = self.to_resend.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let binding = entry.remove();
            if self.model.awaits(&binding) {
                self.to_bind.push_front(binding);
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
            && let Some(binding) = self.to_bind.pop_front()
        {
            let client = self.client.clone();
            self.bindings.spawn(async move {
                let outcome = binder::bind(&client, &binding).await;
                Answer::Binding(binding, outcome)
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
            Ok(Answer::Binding(binding, outcome)) => {
                match &outcome {
                    Outcome::Bound => self.say_bound(&binding),
                    Outcome::Unknown(why) => tracing::debug!(%why, node = &*binding.node, "binding not answered"),
                    Outcome::Refused(_) | Outcome::Changed(_) | Outcome::Gone => {}
                }
                if let Some(again) = self.model.binding_ended(binding, outcome, confirm_by, now) {
                    let doublings = again.unanswered.saturating_sub(1).min(10);
                    let pause = MIN_RESEND.saturating_mul(1 << doublings).min(MAX_RESEND);
                    self.sequence += 1;
                    let at = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                    self.to_resend.insert((at, self.sequence), again);
                }
            }
            Ok(Answer::Look(binding, outcome)) => {
                // Without an answer it is asked about again in its turn.
                self.model.binding_ended(binding, outcome, confirm_by, now);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Cancelled: the runtime ends.
            Err(_) => {}
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

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
