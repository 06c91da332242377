//! Container logs, worked out when somebody reads them: a line's time and text follow from the program and its start, so
//! that no container holds a buffer. What a real log would have rotated away is not shown.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::Millis;
use crate::config::Timings;
use crate::node::Node;
use crate::plan::{EnvValue, Plan, Restart};
use crate::pod::Pod;
use crate::program::{Output, Program, pi};
use crate::shell::{Next, Run, Surroundings};

/// What a container's program sees.
#[derive(Clone)]
pub(crate) struct Inside {
    plan: Arc<Plan>,
    index: usize,
    key: Arc<str>,
    uid: Arc<str>,
    node: Arc<str>,
    ip: Option<Ipv4Addr>,
    started: Millis,
    work: Millis,
}

impl Inside {
    pub fn new(pod: &Pod, index: usize, started: Millis, node: &Node, timings: &Timings) -> Inside {
        Inside {
            plan: pod.plan.clone(),
            index,
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            node: node.name.clone(),
            ip: pod.ip,
            started,
            work: timings.work,
        }
    }

    fn names(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }
}

impl Surroundings for Inside {
    fn variable(&self, name: &str) -> Option<String> {
        let env = &self.plan.containers[self.index].env;
        let (_, value) = env.iter().find(|(known, _)| &**known == name)?;
        Some(match value {
            EnvValue::Text(text) => text.to_string(),
            EnvValue::Field(path) => match &**path {
                "metadata.name" => self.names().1.to_string(),
                "metadata.namespace" => self.names().0.to_string(),
                "metadata.uid" => self.uid.to_string(),
                "spec.nodeName" => self.node.to_string(),
                "status.podIP" => self.ip.map(|ip| ip.to_string()).unwrap_or_default(),
                _ => String::new(),
            },
        })
    }

    fn started(&self) -> Millis {
        self.started
    }

    fn hostname(&self) -> String {
        match (&*self.plan.hostname, self.plan.host_network) {
            (_, true) => self.node.to_string(),
            ("", false) => self.names().1.to_string(),
            (name, false) => name.to_string(),
        }
    }

    fn serves(&self) -> bool {
        self.plan.containers[self.index].restart == Restart::Always
    }

    fn work(&self) -> Millis {
        self.work
    }
}

/// What comes next in a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogNext {
    /// A line and the moment it was printed.
    Line(Millis, String),
    /// Nothing before this moment.
    Later(Millis),
    /// No more lines.
    End,
}

/// One run of a container, read from its beginning.
pub(crate) struct LogReader {
    inside: Inside,
    run: Run,
    ready: VecDeque<(Millis, String)>,
    begun: bool,
    /// When the run ended.
    pub end: Option<Millis>,
}

impl LogReader {
    pub fn new(inside: Inside, end: Option<Millis>) -> LogReader {
        LogReader { inside, run: Run::new(), ready: VecDeque::new(), begun: false, end }
    }

    /// When the run that is read began.
    pub fn started(&self) -> Millis {
        self.inside.started
    }

    /// The next line printed until `now`.
    pub fn next(&mut self, now: Millis) -> LogNext {
        let started = self.inside.started;
        let horizon = self.end.map_or(now, |end| end.min(now)).saturating_sub(started);
        let plan = self.inside.plan.clone();
        let program = &plan.containers[self.inside.index].program;
        if let Program::Script(script) = program {
            return match self.run.next(script, &self.inside, horizon, true) {
                Next::Line(at, line) => LogNext::Line(started + at, line),
                Next::Later(at) if self.end.is_none_or(|end| started.saturating_add(at) <= end) => {
                    LogNext::Later(started.saturating_add(at))
                }
                Next::Forever if self.end.is_none() => LogNext::Later(Millis::MAX),
                Next::Later(_) | Next::Ended(..) | Next::Forever => LogNext::End,
            };
        }
        if !self.begun {
            self.begun = true;
            self.ready = lines(program).into();
        }
        match self.ready.front() {
            Some((at, _)) if *at > horizon => match self.end {
                Some(_) => LogNext::End,
                None => LogNext::Later(started + at),
            },
            Some(_) => self.ready.pop_front().map_or(LogNext::End, |(at, line)| LogNext::Line(started + at, line)),
            None if self.end.is_some() => LogNext::End,
            None => LogNext::Later(Millis::MAX),
        }
    }
}

/// Lines of a program that is no script, with their offsets.
fn lines(program: &Program) -> Vec<(Millis, String)> {
    let at = |after: Millis, lines: &[&str]| lines.iter().map(|line| (after, line.to_string())).collect();
    match program {
        Program::Service { lines, .. } => at(0, lines),
        Program::Batch { after, output: Output::Lines(lines), .. } => at(*after, lines),
        Program::Batch { after, output: Output::Line(line), .. } => vec![(*after, line.to_string())],
        Program::Batch { after, output: Output::Pi(digits), .. } => vec![(*after, pi(*digits))],
        Program::Script(_) => Vec::new(),
    }
}
