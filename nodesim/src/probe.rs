//! Probes: what a probe would find is known from the pod, so only probes that can still change something are run.

use crate::Millis;
use crate::shell::{base, seconds};
use crate::view;

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As events and annotations name it.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Liveness => "liveness",
        }
    }
}

/// What a probe finds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Finding {
    Passes,
    Fails,
    /// Passes until this long after the container's start.
    FailsAfter(Millis),
    /// Passes from this long after the container's start.
    PassesAfter(Millis),
    /// Passes while the container's script has this file (true), or has it not.
    File(Box<str>, bool),
}

/// A probe of a container, all times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Probe {
    pub kind: ProbeKind,
    pub delay: Millis,
    pub period: Millis,
    pub successes: u16,
    pub failures: u16,
    pub finding: Finding,
}

impl Probe {
    /// Reads a probe; `said` is the annotation about it, if there is one.
    pub fn of(kind: ProbeKind, probe: &view::Probe, container: &view::Container, said: Option<&str>) -> Probe {
        let whole = |value: Option<i64>, default: i64, least: i64| value.unwrap_or(default).clamp(least, 86_400);
        let count = |value, default| u16::try_from(whole(value, default, 1)).unwrap_or(u16::MAX);
        let milliseconds = |seconds: i64| Millis::try_from(seconds).unwrap_or(0) * 1000;
        Probe {
            kind,
            delay: milliseconds(whole(probe.initial_delay_seconds, 0, 0)),
            period: milliseconds(whole(probe.period_seconds, 10, 1)),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
            finding: said.and_then(annotated).unwrap_or_else(|| expected(probe, container)),
        }
    }

    /// Whether it passes this long after the container's start.
    fn passes(&self, elapsed: Millis, files: &[(Millis, String, bool)]) -> bool {
        match &self.finding {
            Finding::Passes => true,
            Finding::Fails => false,
            Finding::FailsAfter(at) => elapsed < *at,
            Finding::PassesAfter(at) => elapsed >= *at,
            Finding::File(name, wanted) => {
                let made = files.iter().rev().find(|(at, file, _)| *at <= elapsed && file.as_str() == &**name);
                // What the script never touched: /tmp begins empty, the image's own files are there.
                made.map_or(!name.starts_with("/tmp/"), |(_, _, exists)| *exists) == *wanted
            }
        }
    }

    /// Whether it finds the same for ever after this.
    fn is_settled(&self, elapsed: Millis, files: &[(Millis, String, bool)]) -> bool {
        match &self.finding {
            Finding::Passes | Finding::Fails => true,
            Finding::FailsAfter(at) | Finding::PassesAfter(at) => elapsed >= *at,
            Finding::File(..) => files.iter().all(|(at, _, _)| *at <= elapsed),
        }
    }
}

/// What an annotation's value says: `pass`, `fail`, `fail-after=30s`, `pass-after=5s`.
fn annotated(value: &str) -> Option<Finding> {
    let length = |text: &str| seconds(&[text.to_string()]).unwrap_or(Millis::MAX);
    match value.split_once('=') {
        None if value == "pass" => Some(Finding::Passes),
        None if value == "fail" => Some(Finding::Fails),
        Some(("fail-after", text)) => Some(Finding::FailsAfter(length(text))),
        Some(("pass-after", text)) => Some(Finding::PassesAfter(length(text))),
        _ => None,
    }
}

/// What a probe without an annotation finds.
fn expected(probe: &view::Probe, container: &view::Container) -> Finding {
    // The e2e suite's liveness server answers 200 for ten seconds, then 500.
    let liveness_server = container.args.first().is_some_and(|arg| arg == "liveness" || arg == "/server")
        && (container.image.contains("agnhost") || container.image.contains("liveness"));
    if liveness_server && probe.http_get.as_ref().is_some_and(|get| get.path == "/healthz") {
        return Finding::FailsAfter(10_000);
    }
    let Some(exec) = &probe.exec else { return Finding::Passes };
    let command: Vec<&str> = exec.command.iter().map(String::as_str).collect();
    let words: Vec<&str> = match command.as_slice() {
        [shell, flag, script] if matches!(base(shell), "sh" | "bash") && flag.ends_with('c') => {
            script.split_whitespace().collect()
        }
        words => words.to_vec(),
    };
    match words.as_slice() {
        [program] if base(program) == "false" => Finding::Fails,
        ["exit", code] if *code != "0" => Finding::Fails,
        [program, file] if matches!(base(program), "cat" | "ls" | "stat") => Finding::File((*file).into(), true),
        ["test" | "[" | "/usr/bin/test", "-f" | "-e", file, ..] => Finding::File((*file).into(), true),
        ["!", "test" | "[", "-f" | "-e", file, ..] | ["test" | "[", "!", "-f" | "-e", file, ..] => {
            Finding::File((*file).into(), false)
        }
        _ => Finding::Passes,
    }
}

/// A probe at work.
#[derive(Clone, Debug)]
pub(crate) struct Probing {
    /// When it runs next; [`Millis::MAX`] once nothing more can come of it.
    pub next: Millis,
    good: u16,
    bad: u16,
}

/// What came of a probe's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet.
    None,
    Passed,
    /// The failure threshold is reached.
    Failed,
}

/// Runs that are caught up on at most, after a stop.
const MAX_CATCH_UP: u64 = 1_000;

impl Probing {
    /// Begins after the container's start or, for what waits for a startup probe, at `now`.
    pub fn begin(probe: &Probe, since: Millis, now: Millis) -> Probing {
        Probing { next: (since + probe.delay).max(now), good: 0, bad: 0 }
    }

    /// Does not run until begun.
    pub fn waiting() -> Probing {
        Probing { next: Millis::MAX, good: 0, bad: 0 }
    }

    /// Runs what is due. `passing` is whether the probe's result is success so far.
    pub fn run(
        &mut self,
        probe: &Probe,
        since: Millis,
        now: Millis,
        files: &[(Millis, String, bool)],
        mut passing: bool,
    ) -> Verdict {
        let mut verdict = Verdict::None;
        if now.saturating_sub(self.next) / probe.period > MAX_CATCH_UP {
            self.next = now - MAX_CATCH_UP * probe.period;
        }
        while self.next <= now {
            let elapsed = self.next.saturating_sub(since);
            let passes = probe.passes(elapsed, files);
            let settled = probe.is_settled(elapsed, files);
            self.next += probe.period;
            if passes {
                (self.good, self.bad) = (self.good.saturating_add(1), 0);
                if self.good >= probe.successes {
                    (verdict, passing) = (Verdict::Passed, true);
                }
            } else {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                if self.bad >= probe.failures {
                    verdict = Verdict::Failed;
                    passing = false;
                }
            }
            let decided = if passes { self.good >= probe.successes } else { self.bad >= probe.failures };
            if probe.kind != ProbeKind::Readiness && verdict == Verdict::Failed
                || probe.kind == ProbeKind::Startup && verdict == Verdict::Passed
                || settled && decided && passing == passes
            {
                self.next = Millis::MAX;
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(kind: ProbeKind, finding: Finding) -> Probe {
        Probe { kind, delay: 5_000, period: 10_000, successes: 1, failures: 3, finding }
    }

    fn exec(command: &[&str]) -> Finding {
        let exec = view::Exec { command: command.iter().map(|word| word.to_string()).collect() };
        expected(&view::Probe { exec: Some(exec), ..Default::default() }, &view::Container::default())
    }

    #[test]
    fn a_passing_probe_runs_once() {
        let probe = probe(ProbeKind::Readiness, Finding::Passes);
        let mut probing = Probing::begin(&probe, 1_000, 1_000);
        assert_eq!(probing.next, 6_000);
        assert_eq!(probing.run(&probe, 1_000, 5_999, &[], false), Verdict::None);
        assert_eq!(probing.run(&probe, 1_000, 6_000, &[], false), Verdict::Passed);
        assert_eq!(probing.next, Millis::MAX);
    }

    #[test]
    fn liveness_fails_after_its_threshold() {
        let probe = probe(ProbeKind::Liveness, Finding::FailsAfter(20_000));
        let mut probing = Probing::begin(&probe, 0, 0);
        // Runs at 5 and 15 s pass, those at 25, 35 and 45 s fail.
        for (now, verdict) in [
            (5_000, Verdict::Passed),
            (15_000, Verdict::Passed),
            (25_000, Verdict::None),
            (35_000, Verdict::None),
            (45_000, Verdict::Failed),
        ] {
            assert_eq!(probing.next, now);
            assert_eq!(probing.run(&probe, 0, now, &[], true), verdict, "{now}");
        }
        assert_eq!(probing.next, Millis::MAX);
    }

    #[test]
    fn files_of_the_script_decide() {
        let files = vec![(0, "/tmp/healthy".to_string(), true), (30_000, "/tmp/healthy".to_string(), false)];
        let probe = probe(ProbeKind::Readiness, exec(&["cat", "/tmp/healthy"]));
        let mut probing = Probing::begin(&probe, 0, 0);
        assert_eq!(probing.run(&probe, 0, 5_000, &files, false), Verdict::Passed);
        assert_eq!(probing.run(&probe, 0, 65_000, &files, true), Verdict::Failed);
        assert_eq!(probing.next, Millis::MAX);
    }

    #[test]
    fn commands_and_annotations_tell_what_is_found() {
        assert_eq!(exec(&["/bin/false"]), Finding::Fails);
        assert_eq!(exec(&["sh", "-c", "exit 1"]), Finding::Fails);
        assert_eq!(exec(&["sh", "-c", "test -f /tmp/x"]), Finding::File("/tmp/x".into(), true));
        assert_eq!(exec(&["redis-cli", "ping"]), Finding::Passes);
        assert_eq!(annotated("fail-after=1m"), Some(Finding::FailsAfter(60_000)));
        assert_eq!(annotated("sometimes"), None);
    }
}
