//! Events about pods on their way to the API: what is told people, within a rate.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Millis;

/// Most Events that wait for the driver; the newest are dropped.
const MAX_NOTES: usize = 4_096;

/// Something to tell people about a pod.
#[derive(Debug)]
pub(crate) struct Note {
    pub key: Arc<str>,
    pub uid: Arc<str>,
    pub container: Box<str>,
    /// Where it happened.
    pub node: Arc<str>,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Events on their way to the API, within a rate: best effort.
pub(crate) struct Notes {
    waiting: VecDeque<Note>,
    per_second: u64,
    /// Thousandths of an Event that may be sent now.
    tokens: u64,
    filled: Millis,
    pub dropped: u64,
}

impl Notes {
    pub fn new(per_second: u32, now: Millis) -> Notes {
        let per_second = u64::from(per_second);
        Notes { waiting: VecDeque::new(), per_second, tokens: per_second * 10_000, filled: now, dropped: 0 }
    }

    /// Events to send.
    pub fn take(&mut self) -> VecDeque<Note> {
        std::mem::take(&mut self.waiting)
    }

    fn grant(&mut self, now: Millis, reserve: u64) -> bool {
        let refill = now.saturating_sub(self.filled).saturating_mul(self.per_second);
        self.tokens = self.tokens.saturating_add(refill).min(self.per_second * 10_000);
        self.filled = self.filled.max(now);
        let granted = self.tokens >= 1_000 + reserve && self.waiting.len() < MAX_NOTES;
        if granted {
            self.tokens -= 1_000;
        } else {
            self.dropped += 1;
        }
        granted
    }

    /// Reports what is as it should be. The text is made only if it will be sent.
    pub fn normal(&mut self, now: Millis, about: About, reason: &'static str, message: impl FnOnce() -> String) {
        // A fifth of the burst is kept for warnings.
        if self.grant(now, self.per_second * 2_000) {
            self.waiting.push_back(about.note(false, reason, message()));
        }
    }

    /// Reports what is wrong.
    pub fn warning(&mut self, now: Millis, about: About, reason: &'static str, message: impl FnOnce() -> String) {
        if self.grant(now, 0) {
            self.waiting.push_back(about.note(true, reason, message()));
        }
    }
}

/// What a note is about.
pub(crate) struct About<'a> {
    pub key: &'a Arc<str>,
    pub uid: &'a Arc<str>,
    /// Empty for the whole pod.
    pub container: &'a str,
    pub node: &'a Arc<str>,
}

impl About<'_> {
    fn note(&self, warning: bool, reason: &'static str, message: String) -> Note {
        Note {
            key: self.key.clone(),
            uid: self.uid.clone(),
            container: self.container.into(),
            node: self.node.clone(),
            warning,
            reason,
            message,
        }
    }
}
