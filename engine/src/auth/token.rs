//! Simple tokens: random text that stands for a user, for a while.
//!
//! They are made by commands, so that every member knows them, and live in memory only, as in etcd. When they run out
//! is up to each member's own clock, which comes in as an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

/// Most tokens at a time. Beyond it those that run out first go, and their users authenticate again.
const MOST: usize = 1 << 17;
/// Share of the tokens that goes then.
const SHARE: usize = 16;
/// Of a token that nobody has looked at yet: its time begins with the first look.
const UNSEEN: u64 = u64::MAX;

struct Token {
    user: Arc<str>,
    /// Milliseconds of the member's clock.
    until: AtomicU64,
}

/// All tokens of this member.
#[derive(Default)]
pub(crate) struct Tokens {
    held: RwLock<FxHashMap<Box<str>, Token>>,
}

impl Tokens {
    pub fn issue(&self, token: &str, user: Arc<str>) {
        let mut held = self.held.write();
        if held.len() >= MOST {
            let mut until: Vec<u64> = held.values().map(|token| token.until.load(Relaxed)).collect();
            let (_, &mut last, _) = until.select_nth_unstable(MOST / SHARE);
            let mut left = MOST / SHARE;
            held.retain(|_, token| {
                let goes = left > 0 && token.until.load(Relaxed) <= last;
                left -= usize::from(goes);
                !goes
            });
        }
        held.insert(token.into(), Token { user, until: AtomicU64::new(UNSEEN) });
    }

    /// Whose token it is. It then has its full time again.
    pub fn user(&self, token: &str, now_ms: u64, ttl_ms: u64) -> Option<Arc<str>> {
        let held = self.held.read();
        let token = held.get(token)?;
        let until = token.until.load(Relaxed);
        if until < now_ms {
            return None;
        }
        token.until.store(now_ms.saturating_add(ttl_ms).min(UNSEEN - 1), Relaxed);
        Some(token.user.clone())
    }

    /// Drops those that have run out, and starts the time of those that nobody has looked at.
    pub fn sweep(&self, now_ms: u64, ttl_ms: u64) {
        self.held.write().retain(|_, token| {
            let until = token.until.get_mut();
            if *until == UNSEEN {
                *until = now_ms.saturating_add(ttl_ms).min(UNSEEN - 1);
            }
            *until >= now_ms
        });
    }

    pub fn revoke(&self, user: &str) {
        self.held.write().retain(|_, token| *token.user != *user);
    }

    pub fn clear(&self) {
        self.held.write().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lasts_from_its_last_use() {
        let tokens = Tokens::default();
        tokens.issue("a.1", "alice".into());
        assert_eq!(tokens.user("a.1", 1_000, 50).as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.1", 1_050, 50).as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.1", 1_101, 50), None);
        assert_eq!(tokens.user("a.1", 1_101, 50), None, "it does not come back");
        assert_eq!(tokens.user("b.1", 1_000, 50), None);
    }

    #[test]
    fn sweeping_drops_what_has_run_out_and_starts_the_unseen() {
        let tokens = Tokens::default();
        tokens.issue("seen", "a".into());
        tokens.user("seen", 0, 10);
        tokens.issue("unseen", "a".into());
        tokens.sweep(11, 10);
        assert_eq!(tokens.held.read().len(), 1);
        tokens.sweep(22, 10);
        assert!(tokens.held.read().is_empty());
    }

    #[test]
    fn revoking_ends_those_of_one_user() {
        let tokens = Tokens::default();
        for (token, user) in [("1", "a"), ("2", "b"), ("3", "a")] {
            tokens.issue(token, user.into());
        }
        tokens.revoke("a");
        assert_eq!(["1", "2", "3"].map(|token| tokens.user(token, 0, 1).is_some()), [false, true, false]);
        tokens.clear();
        assert_eq!(tokens.user("2", 0, 1), None);
    }

    #[test]
    fn beyond_the_bound_the_oldest_go() {
        let tokens = Tokens::default();
        let user: Arc<str> = "a".into();
        for number in 0..MOST {
            tokens.issue(&number.to_string(), user.clone());
            tokens.user(&number.to_string(), number as u64, 1 << 40);
        }
        tokens.issue("new", user);
        let held = tokens.held.read();
        assert_eq!(held.len(), MOST - MOST / SHARE + 1);
        assert!(!held.contains_key("0") && held.contains_key("new") && held.contains_key(&*(MOST - 1).to_string()));
    }
}
