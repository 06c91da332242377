//! One container of a pod: where it is in its life.

use crate::Millis;
use crate::probe::Probing;

/// How a run of a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub started: Millis,
    pub finished: Millis,
    pub code: i32,
    pub reason: &'static str,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its turn has not come.
    Waiting,
    Pulling {
        until: Millis,
    },
    /// The image cannot be had; `reason` until `at`, then the next step (back-off, or the next try).
    PullFailed {
        reason: &'static str,
        at: Millis,
    },
    Creating {
        until: Millis,
    },
    Running(Running),
    /// Stopped from outside: ends at this time with this code.
    Killing {
        since: Millis,
        at: Millis,
        code: i32,
    },
    /// Ended, waits to be started again.
    BackOff {
        until: Millis,
    },
    /// Ended for good.
    Ended,
}

/// A running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub since: Millis,
    /// When it ends by itself, and with what code.
    pub exit: Option<(Millis, i32)>,
    /// Its code on SIGTERM; `None` if it ignores that.
    pub on_term: Option<i32>,
    /// When its postStart hook is through.
    pub hooked: Millis,
}

/// A file that a script makes (true) or removes, and how long after its start.
pub(crate) type FileChange = (Millis, String, bool);

/// One container of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub stage: Stage,
    pub restarts: u32,
    /// The latest end that no new run has followed.
    pub exited: Option<Box<Ended>>,
    /// The end before the present run.
    pub last: Option<Box<Ended>>,
    /// Crashes or failed pulls in a row: how long the next pause is.
    pub level: u8,
    pub started: bool,
    pub ready: bool,
    /// Its image was replaced: start it again whatever its policy.
    pub renew: bool,
    pub probing: Box<[Probing]>,
    pub files: Box<[FileChange]>,
}

impl Container {
    pub fn new() -> Container {
        Container {
            stage: Stage::Waiting,
            restarts: 0,
            exited: None,
            last: None,
            level: 0,
            started: false,
            ready: false,
            renew: false,
            probing: Box::default(),
            files: Box::default(),
        }
    }

    /// Whether it runs, or is on its way to its end.
    pub fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Running(_) | Stage::Killing { .. })
    }

    /// Whether nothing more happens to it once its pod is being stopped.
    pub fn is_down(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Ended)
    }

    /// Whether it has run at least once.
    pub fn has_run(&self) -> bool {
        self.is_up() || self.exited.is_some() || self.last.is_some()
    }

    /// Start of the run that goes on.
    pub fn running_since(&self) -> Option<Millis> {
        match self.stage {
            Stage::Running(running) => Some(running.since),
            Stage::Killing { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Why it does not run yet, as its status says.
    pub fn waiting_for(&self) -> &'static str {
        match self.stage {
            Stage::PullFailed { reason: "ErrImagePull" | "ImagePullBackOff", .. } => "trying and failing to pull image",
            Stage::PullFailed { reason, .. } => reason,
            _ => "ContainerCreating",
        }
    }

    /// Exit code of a container that ended for good.
    pub fn final_code(&self) -> Option<i32> {
        (self.stage == Stage::Ended).then(|| self.exited.as_ref().map(|ended| ended.code)).flatten()
    }

    /// When something is due; [`Millis::MAX`] for never.
    pub fn due(&self) -> Millis {
        match self.stage {
            Stage::Waiting | Stage::Ended => Millis::MAX,
            Stage::Pulling { until } | Stage::Creating { until } | Stage::BackOff { until } => until,
            Stage::PullFailed { at, .. } | Stage::Killing { at, .. } => at,
            Stage::Running(running) => {
                let exit = running.exit.map_or(Millis::MAX, |(at, _)| at);
                let hook = if self.started { Millis::MAX } else { running.hooked };
                // Probes begin once the hook is through.
                let probes = self.probing.iter().map(|probing| probing.next).min().unwrap_or(Millis::MAX);
                exit.min(if hook == Millis::MAX || self.probing.is_empty() {
                    hook.min(probes)
                } else {
                    probes.max(hook)
                })
            }
        }
    }
}
