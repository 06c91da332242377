//! One pod: what a kubelet would do with it at each moment. Time comes in as an argument.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::Millis;
use crate::config::Timings;
use crate::container::{Container, Ended, Running, Stage};
use crate::image::{self, Trouble};
use crate::logs::Inside;
use crate::node::{Images, Node};
use crate::notes::{About, Notes};
use crate::plan::{Plan, Pull, Restart};
use crate::probe::{ProbeKind, Probing, Verdict};

/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Millis = 2_000;
/// A container that ran this long begins its back-off anew (twice the kubelet's longest back-off).
const BACKOFF_RESET: Millis = 600_000;
/// Exit code of a process that was killed.
pub(crate) const KILLED: i32 = 128 + 9;
/// After so many times the time until a pod on its way is reported, a change is written even if the next one is near.
const PATIENCE: u64 = 5;
/// Most rounds of one step, against a state that feeds itself.
const MAX_ROUNDS: usize = 64;

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// The conditions that a kubelet owns, in the order of [`Pod::conditions`].
pub(crate) const CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// Why the kubelet itself failed a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub reason: String,
    pub message: String,
}

/// One pod of one of our nodes.
pub(crate) struct Pod {
    /// `namespace/name`.
    pub key: Arc<str>,
    pub uid: Arc<str>,
    pub node: u32,
    pub plan: Arc<Plan>,
    pub generation: i64,
    pub ip: Option<Ipv4Addr>,
    pub phase: Phase,
    /// When the agent saw it first: `status.startTime`.
    pub started: Millis,
    pub sandbox_at: Millis,
    pub failure: Option<Box<Failure>>,
    /// When what still runs is killed.
    pub stopping: Option<Millis>,
    /// Its deletion has been asked for.
    pub deleting: bool,
    /// Its object has been deleted, or is gone.
    pub removed: bool,
    /// Annotations tell about its probes.
    pub annotated: bool,
    /// Somebody looks at its final status before it may go.
    pub watched_end: bool,
    pub containers: Box<[Container]>,
    /// Status and time of last change.
    pub conditions: [(bool, Millis); 4],
    pub gates_met: bool,
    /// Whether its resources and address are counted on its node.
    pub holds: bool,
    /// Since when its status differs from the one written last.
    pub dirty: Option<Millis>,
    pub queued: bool,
    pub in_flight: bool,
    pub attempts: u8,
    /// Not to be written before this, after a failed write.
    pub not_before: Millis,
    /// Digest of the status written last.
    pub published: u64,
    /// When its timer goes off; [`Millis::MAX`] if there is none.
    pub armed: Millis,
}

/// What a pod's step sees besides the pod.
pub(crate) struct Scene<'a> {
    pub now: Millis,
    pub timings: &'a Timings,
    pub seed: u64,
    pub node: &'a mut Node,
    pub images: &'a mut Images,
    pub notes: &'a mut Notes,
}

impl Pod {
    pub fn new(key: Arc<str>, uid: Arc<str>, node: u32, plan: Arc<Plan>, now: Millis) -> Pod {
        let containers = plan.containers.iter().map(|_| Container::new()).collect();
        Pod {
            key,
            uid,
            node,
            plan,
            generation: 0,
            ip: None,
            phase: Phase::Pending,
            started: now,
            sandbox_at: now,
            failure: None,
            stopping: None,
            deleting: false,
            removed: false,
            annotated: false,
            watched_end: false,
            containers,
            conditions: [(false, now); 4],
            gates_met: true,
            holds: false,
            dirty: None,
            queued: false,
            in_flight: false,
            attempts: 0,
            not_before: 0,
            published: 0,
            armed: Millis::MAX,
        }
    }

    /// Its namespace and its name.
    pub fn names(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }

    /// Nothing of it runs any more.
    pub fn is_over(&self) -> bool {
        self.phase.is_terminal()
    }

    /// Its deletion was asked for and nothing of it is left: its object can go.
    pub fn goes(&self) -> bool {
        self.deleting && self.is_over()
    }

    /// Fails it without running anything.
    pub fn refuse(&mut self, reason: &str, message: String, now: Millis) {
        self.phase = Phase::Failed;
        self.failure = Some(Box::new(Failure { reason: reason.into(), message }));
        self.dirty.get_or_insert(now);
    }

    /// Asks for its end: what runs gets SIGTERM, and is killed when the grace is over. A later, shorter grace counts.
    pub fn stop(&mut self, grace: Millis, scene: &mut Scene) {
        let kill_at = scene.now.saturating_add(grace);
        let shorter = self.stopping.is_none_or(|old| kill_at < old);
        if self.is_over() || !shorter {
            return;
        }
        let first = self.stopping.is_none();
        self.stopping = Some(kill_at);
        for index in 0..self.containers.len() {
            let container = &mut self.containers[index];
            match &mut container.stage {
                Stage::Killing { at, code, .. } if *at > kill_at => (*at, *code) = (kill_at, KILLED),
                Stage::Pulling { .. } | Stage::PullFailed { .. } | Stage::Creating { .. } | Stage::BackOff { .. } => {
                    container.stage = if container.exited.is_some() { Stage::Ended } else { Stage::Waiting };
                }
                // Sidecars stop after the pod's own containers.
                Stage::Running(_) if first && !self.plan.containers[index].sidecar => self.kill(index, scene, ""),
                _ => {}
            }
        }
        self.dirty.get_or_insert(scene.now);
    }

    /// Replaces what the pod was to do by what its changed spec or annotations say.
    pub fn replan(&mut self, plan: Arc<Plan>, scene: &mut Scene) -> Arc<Plan> {
        let old = std::mem::replace(&mut self.plan, plan);
        for index in 0..self.containers.len() {
            let (before, after) = (&old.containers[index], &self.plan.containers[index]);
            let new_image = before.image != after.image;
            let new_probes = before.probes != after.probes;
            let container = &mut self.containers[index];
            if let (true, Stage::Running(running)) = (new_probes, container.stage) {
                container.probing =
                    after.probes.iter().map(|probe| Probing::begin(probe, running.since, scene.now)).collect();
            }
            if !new_image || self.stopping.is_some() {
                continue;
            }
            match container.stage {
                Stage::Running(_) => {
                    container.renew = true;
                    let name = self.plan.containers[index].name.clone();
                    self.kill(index, scene, &format!("Container {name} definition changed, will be restarted"));
                }
                Stage::Pulling { .. } | Stage::PullFailed { .. } | Stage::Creating { .. } | Stage::BackOff { .. } => {
                    container.level = 0;
                    self.begin(index, scene);
                }
                _ => {}
            }
        }
        old
    }

    /// Carries out everything that is due.
    pub fn step(&mut self, scene: &mut Scene) {
        for _ in 0..MAX_ROUNDS {
            if self.is_over() || !self.round(scene) {
                break;
            }
            self.dirty.get_or_insert(scene.now);
        }
        self.settle(scene.now);
    }

    /// One pass over the containers; whether anything changed.
    fn round(&mut self, scene: &mut Scene) -> bool {
        let mut changed = false;
        let deadline = self.plan.deadline.map(|length| self.started.saturating_add(length));
        if self.stopping.is_none() && deadline.is_some_and(|at| at <= scene.now) {
            self.failure = Some(Box::new(Failure {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
            }));
            let grace = self.plan.grace;
            self.stop(grace, scene);
            changed = true;
        }
        for index in 0..self.containers.len() {
            changed |= self.step_container(index, scene);
        }
        let init_failed = (0..self.plan.inits).any(|index| {
            !self.plan.containers[index].sidecar && self.containers[index].final_code().is_some_and(|code| code != 0)
        });
        if self.stopping.is_none() && init_failed {
            let grace = self.plan.grace;
            self.stop(grace, scene);
            changed = true;
        }
        // Sidecars end once there is nothing left for them to serve.
        let mains_down = self.mains().all(|container| match self.stopping {
            Some(_) => container.is_down(),
            None => container.stage == Stage::Ended,
        });
        if mains_down {
            for index in 0..self.plan.inits {
                let sidecar = self.plan.containers[index].sidecar;
                match self.containers[index].stage {
                    Stage::Running(_) if sidecar || self.stopping.is_some() => self.kill(index, scene, ""),
                    Stage::Killing { .. } | Stage::Waiting | Stage::Ended | Stage::Running(_) => continue,
                    _ => {
                        let container = &mut self.containers[index];
                        container.stage = if container.exited.is_some() { Stage::Ended } else { Stage::Waiting };
                    }
                }
                changed = true;
            }
        }
        let phase = self.next_phase(mains_down);
        changed |= phase != self.phase;
        self.phase = phase;
        changed
    }

    fn mains(&self) -> impl Iterator<Item = &Container> {
        self.containers[self.plan.inits..].iter()
    }

    fn next_phase(&self, mains_down: bool) -> Phase {
        let down = mains_down && self.containers.iter().all(Container::is_down);
        if down {
            let succeeded = self.failure.is_none() && self.mains().all(|container| container.final_code() == Some(0));
            return if succeeded { Phase::Succeeded } else { Phase::Failed };
        }
        if self.stopping.is_some() {
            return self.phase;
        }
        let running = self.initialized() && self.mains().all(Container::has_run);
        if running { Phase::Running } else { Phase::Pending }
    }

    /// Whether an init container lets what follows it begin.
    fn has_passed(&self, index: usize) -> bool {
        let container = &self.containers[index];
        if self.plan.containers[index].sidecar { container.started } else { container.final_code() == Some(0) }
    }

    /// Whether all init containers are through. Stays so when a sidecar restarts later.
    pub fn initialized(&self) -> bool {
        self.conditions[1].0 || (0..self.plan.inits).all(|index| self.has_passed(index))
    }

    fn is_turn(&self, index: usize) -> bool {
        if self.plan.is_main(index) { self.initialized() } else { (0..index).all(|before| self.has_passed(before)) }
    }

    fn step_container(&mut self, index: usize, scene: &mut Scene) -> bool {
        let now = scene.now;
        match self.containers[index].stage {
            Stage::Waiting => {
                if self.stopping.is_some() || now < self.sandbox_at || !self.is_turn(index) {
                    return false;
                }
                self.begin(index, scene);
            }
            Stage::Pulling { until } if until <= now => self.pulled(index, scene),
            Stage::PullFailed { reason, at } if at <= now => self.pull_again(index, reason, scene),
            Stage::Creating { until } if until <= now => self.start(index, scene),
            Stage::BackOff { until } if until <= now => {
                let until = now + scene.timings.start;
                self.containers[index].stage = Stage::Creating { until };
            }
            Stage::Killing { since, at, code } if at <= now => {
                let reason = if code == 0 { "Completed" } else { "Error" };
                self.finish(index, Ended { started: since, finished: at.max(since), code, reason }, scene);
            }
            Stage::Running(running) => return self.step_running(index, running, scene),
            _ => return false,
        }
        true
    }

    /// A container's turn: its image first.
    fn begin(&mut self, index: usize, scene: &mut Scene) {
        let now = scene.now;
        let plan = &self.plan.containers[index];
        let image = scene.images.id(&plan.image);
        let cached = scene.node.image_at(image);
        let stage = match (image::trouble(&plan.image), plan.pull, cached) {
            (Some(Trouble::Invalid), _, _) => Stage::PullFailed { reason: "InvalidImageName", at: Millis::MAX },
            (_, _, Some(ready)) if ready <= now => Stage::Creating { until: now + scene.timings.start },
            (_, Pull::Never, _) => Stage::PullFailed { reason: "ErrImageNeverPull", at: Millis::MAX },
            (Some(Trouble::Missing), _, _) => Stage::Pulling { until: now + scene.timings.pull_error },
            // Another pod of this node is already pulling it.
            (None, _, Some(ready)) => Stage::Pulling { until: ready },
            (None, _, None) => {
                let until = now + image::pull(&plan.image, scene.timings, scene.node.size.disk, scene.seed).max(1);
                scene.node.add_image(image, until);
                Stage::Pulling { until }
            }
        };
        if let Stage::PullFailed { reason, .. } = stage {
            let message = format!("Error: {reason}: image {:?}", plan.image);
            scene.notes.warning(
                scene.now,
                About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
                "Failed",
                || message,
            );
        }
        self.containers[index].stage = stage;
    }

    fn pulled(&mut self, index: usize, scene: &mut Scene) {
        let now = scene.now;
        let plan = &self.plan.containers[index];
        let container = &mut self.containers[index];
        if image::trouble(&plan.image).is_some() {
            container.stage = Stage::PullFailed { reason: "ErrImagePull", at: now + PULL_ERROR_SHOWN };
            let image = &plan.image;
            scene.notes.warning(
                now,
                About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
                "Failed",
                || format!("Failed to pull image \"{image}\": {}: not found", image::normalized(image)),
            );
            return;
        }
        container.level = 0;
        container.stage = Stage::Creating { until: now + scene.timings.start };
        let image = &plan.image;
        scene.notes.normal(
            now,
            About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
            "Pulled",
            || format!("Successfully pulled image \"{image}\". Image size: {} bytes.", image::bytes(image)),
        );
    }

    fn pull_again(&mut self, index: usize, reason: &'static str, scene: &mut Scene) {
        let now = scene.now;
        let container = &mut self.containers[index];
        if reason != "ErrImagePull" {
            return self.begin(index, scene);
        }
        let pause = pause(container.level, scene.timings);
        container.level = container.level.saturating_add(1);
        container.stage = Stage::PullFailed { reason: "ImagePullBackOff", at: now + pause };
        let plan = &self.plan.containers[index];
        scene.notes.normal(
            now,
            About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
            "BackOff",
            || format!("Back-off pulling image \"{}\"", plan.image),
        );
    }

    fn start(&mut self, index: usize, scene: &mut Scene) {
        let now = scene.now;
        let plan = self.plan.clone();
        let plan = &plan.containers[index];
        let outcome = plan.program.outcome(&Inside::new(self, index, now, scene.node, scene.timings));
        let container = &mut self.containers[index];
        if let Some(ended) = container.exited.take() {
            container.restarts += 1;
            container.last = Some(ended);
        }
        let hook = plan.post_start.map_or(0, |hook| hook.takes);
        let mut exit = outcome.exit.map(|(after, code)| (now.saturating_add(after), code));
        let hooked = now.saturating_add(hook);
        if plan.post_start.is_some_and(|hook| hook.code != 0) && exit.is_none_or(|(at, _)| at > hooked) {
            // A hook that fails takes its container with it.
            exit = Some((hooked, KILLED));
        }
        container.stage = Stage::Running(Running { since: now, exit, on_term: outcome.on_term, hooked });
        let waits = plan.probes.iter().any(|probe| probe.kind == ProbeKind::Startup);
        container.probing = plan
            .probes
            .iter()
            .map(|probe| match probe.kind == ProbeKind::Startup || !waits {
                true => Probing::begin(probe, now, hooked),
                false => Probing::waiting(),
            })
            .collect();
        let files = plan.probes.iter().any(|probe| matches!(probe.finding, crate::probe::Finding::File(..)));
        container.files = if files { outcome.files.into() } else { Box::default() };
        (container.started, container.ready) = (false, false);
        scene.notes.normal(
            now,
            About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
            "Created",
            || format!("Container created: {}", plan.name),
        );
        scene.notes.normal(
            now,
            About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
            "Started",
            || format!("Container started: {}", plan.name),
        );
    }

    fn step_running(&mut self, index: usize, running: Running, scene: &mut Scene) -> bool {
        let now = scene.now;
        if let Some((at, code)) = running.exit.filter(|(at, _)| *at <= now) {
            let reason = if code == 0 { "Completed" } else { "Error" };
            self.finish(index, Ended { started: running.since, finished: at, code, reason }, scene);
            return true;
        }
        if now < running.hooked {
            return false;
        }
        let plan = self.plan.clone();
        let plan = &plan.containers[index];
        let container = &mut self.containers[index];
        let has = |kind: ProbeKind| plan.probes.iter().any(|probe| probe.kind == kind);
        let mut changed = false;
        if !container.started && !has(ProbeKind::Startup) {
            container.started = true;
            changed = true;
        }
        if !container.ready && container.started && !has(ProbeKind::Readiness) {
            container.ready = true;
            changed = true;
        }
        for (at, probe) in plan.probes.iter().enumerate() {
            if self.containers[index].probing[at].next > now {
                continue;
            }
            let container = &mut self.containers[index];
            let passing = match probe.kind {
                ProbeKind::Startup => container.started,
                ProbeKind::Readiness => container.ready,
                ProbeKind::Liveness => true,
            };
            let verdict = container.probing[at].run(probe, running.since, now, &container.files, passing);
            match (probe.kind, verdict) {
                (_, Verdict::None) => {}
                (ProbeKind::Readiness, Verdict::Passed) => {
                    changed |= !std::mem::replace(&mut container.ready, true);
                }
                (ProbeKind::Readiness, Verdict::Failed) => {
                    if std::mem::replace(&mut container.ready, false) {
                        changed = true;
                        self.unhealthy(index, probe.kind, scene);
                    }
                }
                (ProbeKind::Startup, Verdict::Passed) => {
                    container.started = true;
                    // The others begin now.
                    container.probing = plan
                        .probes
                        .iter()
                        .map(|probe| match probe.kind {
                            ProbeKind::Startup => Probing::waiting(),
                            _ => Probing::begin(probe, running.since, now),
                        })
                        .collect();
                    return true;
                }
                (ProbeKind::Liveness, Verdict::Passed) => {}
                (ProbeKind::Startup | ProbeKind::Liveness, Verdict::Failed) => {
                    self.unhealthy(index, probe.kind, scene);
                    if self.stopping.is_none() {
                        let text =
                            format!("Container {} failed {} probe, will be restarted", plan.name, probe.kind.name());
                        self.kill(index, scene, &text);
                    }
                    return true;
                }
            }
        }
        changed
    }

    fn unhealthy(&mut self, index: usize, kind: ProbeKind, scene: &mut Scene) {
        let name = &self.plan.containers[index].name;
        let mut title = kind.name().to_string();
        title[..1].make_ascii_uppercase();
        scene.notes.warning(
            scene.now,
            About { key: &self.key, uid: &self.uid, container: name, node: &scene.node.name },
            "Unhealthy",
            || format!("{title} probe failed"),
        );
    }

    /// Sends SIGTERM, after the preStop hook; SIGKILL follows when the grace is over.
    fn kill(&mut self, index: usize, scene: &mut Scene, text: &str) {
        let now = scene.now;
        let plan = &self.plan.containers[index];
        let Stage::Running(running) = self.containers[index].stage else { return };
        let kill_at = self.stopping.unwrap_or(now.saturating_add(self.plan.grace));
        let term_at = now.saturating_add(plan.pre_stop.map_or(0, |hook| hook.takes));
        let (mut at, mut code) = match running.on_term {
            Some(code) if term_at + scene.timings.stop <= kill_at => (term_at + scene.timings.stop, code),
            // Zero grace: there is no time to heed anything.
            _ => (kill_at, KILLED),
        };
        if let Some((exit_at, exit)) = running.exit.filter(|(exit_at, _)| *exit_at <= at) {
            (at, code) = (exit_at, exit);
        }
        self.containers[index].stage = Stage::Killing { since: running.since, at, code };
        scene.notes.normal(
            now,
            About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
            "Killing",
            || match text {
                "" => format!("Stopping container {}", plan.name),
                text => text.to_string(),
            },
        );
    }

    fn finish(&mut self, index: usize, ended: Ended, scene: &mut Scene) {
        let now = scene.now;
        let policy = self.plan.containers[index].restart;
        let container = &mut self.containers[index];
        container.exited = Some(Box::new(ended));
        (container.ready, container.started) = (false, false);
        container.probing = Box::default();
        container.files = Box::default();
        let renew = std::mem::take(&mut container.renew);
        let again = renew
            || match policy {
                Restart::Always => true,
                Restart::OnFailure => ended.code != 0,
                Restart::Never => false,
            };
        if self.stopping.is_some() || !again {
            container.stage = Stage::Ended;
            return;
        }
        if ended.finished.saturating_sub(ended.started) >= BACKOFF_RESET {
            container.level = 0;
        }
        if renew {
            return self.begin(index, scene);
        }
        // The first restart is at once, the next ones wait ever longer.
        let level = container.level;
        container.level = level.saturating_add(1);
        if level == 0 {
            container.stage = Stage::Creating { until: now + scene.timings.start };
            return;
        }
        container.stage = Stage::BackOff { until: ended.finished + pause(level - 1, scene.timings) };
        let plan = &self.plan.containers[index];
        scene.notes.warning(
            now,
            About { key: &self.key, uid: &self.uid, container: &plan.name, node: &scene.node.name },
            "BackOff",
            || format!("Back-off restarting failed container {} in pod {}", plan.name, self.key),
        );
    }

    /// Brings the conditions up to date.
    fn settle(&mut self, now: Millis) {
        let over = self.is_over();
        let ready = !over
            && self.containers.iter().enumerate().all(|(index, container)| {
                container.ready || (!self.plan.is_main(index) && !self.plan.containers[index].sidecar)
            })
            && self.initialized();
        let sandboxed = !over && now >= self.sandbox_at && self.ip.is_some();
        let initialized = self.initialized() && self.failure.as_ref().is_none_or(|_| self.conditions[1].0);
        for (condition, value) in
            self.conditions.iter_mut().zip([sandboxed, initialized, ready, ready && self.gates_met])
        {
            if condition.0 != value {
                *condition = (value, now);
                self.dirty.get_or_insert(now);
            }
        }
    }

    /// When something is due in the pod; [`Millis::MAX`] for never.
    pub fn due(&self, now: Millis) -> Millis {
        if self.is_over() {
            return Millis::MAX;
        }
        let containers = self.containers.iter().map(Container::due).min().unwrap_or(Millis::MAX);
        let sandbox = if self.sandbox_at > now { self.sandbox_at } else { Millis::MAX };
        let deadline = match (self.plan.deadline, self.stopping) {
            (Some(length), None) => self.started.saturating_add(length),
            _ => Millis::MAX,
        };
        containers.min(sandbox).min(deadline)
    }

    /// When its status is to be written, if it has changed: not while it is known to change again in a moment.
    pub fn write_at(&self, now: Millis, timings: &Timings) -> Option<Millis> {
        let since = self.dirty?;
        let at = if self.is_over() {
            now
        } else {
            let due = self.due(now);
            let on_its_way = self.phase == Phase::Pending
                && self.stopping.is_none()
                && !self.containers.iter().any(|c| matches!(c.stage, Stage::PullFailed { .. } | Stage::BackOff { .. }));
            // Counted from now: under load the steps themselves come late. But not put off for ever.
            let patient = now < since.saturating_add(PATIENCE * timings.report);
            if patient && due <= now.saturating_add(timings.settle) {
                due
            } else if on_its_way {
                since.saturating_add(timings.report).max(now)
            } else {
                now
            }
        };
        Some(at.max(self.not_before))
    }
}

/// The pause of a loop at this level.
pub(crate) fn pause(level: u8, timings: &Timings) -> Millis {
    let (first, longest) = timings.backoff;
    first.checked_shl(u32::from(level)).filter(|pause| pause >> level.min(63) == first).unwrap_or(longest).min(longest)
}
