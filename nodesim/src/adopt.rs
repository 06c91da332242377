//! Takes a pod over that ran before this process did: its state is rebuilt from what the API says, nothing starts twice.

use std::time::UNIX_EPOCH;

use kelson_wire::kube::timestamp;

use crate::Millis;
use crate::config::Timings;
use crate::container::{Container, Ended, Running, Stage};
use crate::logs::Inside;
use crate::node::{Images, Node};
use crate::plan::Restart;
use crate::pod::{CONDITIONS, Failure, Phase, Pod, pause};
use crate::probe::{Finding, ProbeKind, Probing};
use crate::view;

fn moment(text: &Option<String>) -> Option<Millis> {
    let at = timestamp::parse(text.as_ref()?)?.duration_since(UNIX_EPOCH).ok()?;
    Millis::try_from(at.as_millis()).ok()
}

fn ended(state: &view::TerminatedState, now: Millis) -> Box<Ended> {
    let finished = moment(&state.finished_at).unwrap_or(now);
    let reason = if state.exit_code == 0 { "Completed" } else { "Error" };
    Box::new(Ended { started: moment(&state.started_at).unwrap_or(finished), finished, code: state.exit_code, reason })
}

impl Pod {
    /// Takes over what the API says of the pod. False if no agent has seen it before.
    pub fn adopt(
        &mut self,
        seen: &view::Pod,
        node: &mut Node,
        images: &mut Images,
        timings: &Timings,
        now: Millis,
    ) -> bool {
        let status = &seen.status;
        let Some(started) = moment(&status.start_time) else { return false };
        self.started = started;
        self.phase = match status.phase.as_str() {
            "Running" => Phase::Running,
            "Succeeded" => Phase::Succeeded,
            "Failed" => Phase::Failed,
            _ => Phase::Pending,
        };
        if !status.reason.is_empty() {
            let message = String::new();
            self.failure = Some(Box::new(Failure { reason: status.reason.clone(), message }));
        }
        if !self.plan.host_network {
            self.ip = status.pod_ip.parse().ok();
            if let (Some(ip), false) = (self.ip, self.is_over()) {
                node.keep_address(ip);
            }
        }
        for (condition, name) in self.conditions.iter_mut().zip(CONDITIONS) {
            if let Some(known) = status.conditions.iter().find(|known| known.r#type == name) {
                *condition = (known.status == "True", moment(&known.last_transition_time).unwrap_or(now));
            }
        }
        for index in 0..self.containers.len() {
            let name = &*self.plan.containers[index].name;
            let known =
                status.init_container_statuses.iter().chain(&status.container_statuses).find(|s| s.name == name);
            if let Some(known) = known {
                self.adopt_container(index, known, node, timings, now);
                if self.containers[index].has_run() {
                    node.add_image(images.id(&self.plan.containers[index].image), now);
                }
            }
        }
        true
    }

    fn adopt_container(
        &mut self,
        index: usize,
        known: &view::ContainerStatus,
        node: &Node,
        timings: &Timings,
        now: Millis,
    ) {
        let plan = self.plan.clone();
        let plan = &plan.containers[index];
        let mut container = Container::new();
        container.restarts = known.restart_count;
        container.level = u8::try_from(known.restart_count.min(32)).unwrap_or(32);
        container.last = known.last_state.terminated.as_ref().map(|state| ended(state, now));
        if let Some(running) = &known.state.running {
            let since = moment(&running.started_at).unwrap_or(now);
            let outcome = plan.program.outcome(&Inside::new(self, index, since, node, timings));
            let exit = outcome.exit.map(|(after, code)| (since.saturating_add(after), code));
            container.stage = Stage::Running(Running { since, exit, on_term: outcome.on_term, hooked: since });
            (container.started, container.ready) = (known.started.unwrap_or(true), known.ready);
            if plan.probes.iter().any(|probe| matches!(probe.finding, Finding::File(..))) {
                container.files = outcome.files.into();
            }
            let waits = !container.started;
            let begin = |probe: &crate::probe::Probe| match (probe.kind == ProbeKind::Startup) == waits {
                true => Probing::begin(probe, since, now),
                false => Probing::waiting(),
            };
            container.probing = plan.probes.iter().map(begin).collect();
        } else if let Some(state) = &known.state.terminated {
            let end = ended(state, now);
            let again = match plan.restart {
                Restart::Always => true,
                Restart::OnFailure => end.code != 0,
                Restart::Never => false,
            };
            container.stage = if again && !self.is_over() {
                container.level = container.level.saturating_add(1);
                Stage::Creating { until: now + timings.start }
            } else {
                Stage::Ended
            };
            container.exited = Some(end);
        } else if known.state.waiting.as_ref().is_some_and(|waiting| waiting.reason == "CrashLoopBackOff")
            && let Some(end) = container.last.take()
        {
            // Level and pause as they were: the first restart had none, the second one the first pause.
            let until = end.finished.saturating_add(pause(container.level.saturating_sub(1), timings));
            container.level = container.level.saturating_add(1);
            container.stage = Stage::BackOff { until };
            container.exited = Some(end);
        }
        self.containers[index] = container;
    }
}
