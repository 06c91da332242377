//! Log that is kept for members to whom a whole state is sent. What comes behind the state they must find in the log when
//! they have started from it; were it dropped by then, they would need the next state, and the one after that, for as long
//! as the cluster writes faster than that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a member has, after it was sent a state, to start from it and take up the log.
const GRACE: Duration = Duration::from_secs(60);

/// For whom log is kept, each from where; of the members at most.
pub(crate) struct Kept {
    grace: Duration,
    members: Mutex<BTreeMap<u64, Keeping>>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { grace: GRACE, members: Mutex::default() }
    }
}

struct Keeping {
    index: u64,
    /// `None` while the state is on its way.
    until: Option<Instant>,
}

/// While this is held a state is on its way.
pub(crate) struct Sending {
    kept: Arc<Kept>,
    target: u64,
}

impl Kept {
    /// A state that ends at `index` is sent to a member.
    pub(crate) fn send(self: &Arc<Self>, target: u64, index: u64) -> Sending {
        self.members.lock().insert(target, Keeping { index, until: None });
        Sending { kept: self.clone(), target }
    }

    /// Up to where the log may be dropped as far as these members are concerned; `stored` says what one has of the log.
    pub(crate) fn allows(&self, stored: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut kept = self.members.lock();
        kept.retain(|_, keeping| keeping.until.is_none_or(|until| until > Instant::now()));
        kept.iter().map(|(target, keeping)| stored(*target).map_or(keeping.index, |has| has.max(keeping.index))).min()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(keeping) = self.kept.members.lock().get_mut(&self.target) {
            keeping.until = Some(Instant::now() + self.kept.grace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_kept_from_a_state_on_until_its_receiver_has_taken_it_up() {
        let kept = Arc::new(Kept::default());
        let nobody = |_| None;
        assert_eq!(kept.allows(nobody), None);
        let sending = kept.send(2, 70);
        let _other = kept.send(3, 90);
        assert_eq!(kept.allows(nobody), Some(70));
        drop(sending);
        assert_eq!(kept.allows(nobody), Some(70), "it has yet to start");
        assert_eq!(kept.allows(|target| (target == 2).then_some(80)), Some(80));
        assert_eq!(kept.allows(|target| (target == 2).then_some(100)), Some(90));
    }

    #[test]
    fn a_receiver_that_never_comes_is_given_up() {
        let kept = Arc::new(Kept { grace: Duration::ZERO, ..Kept::default() });
        let sending = kept.send(2, 70);
        assert_eq!(kept.allows(|_| None), Some(70), "it is on its way");
        drop(sending);
        assert_eq!(kept.allows(|_| None), None);
    }
}
