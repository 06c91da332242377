//! Pings to clients that have said nothing for a while, so that those that are gone do not hold their place.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What a ping of this kind says.
pub(super) const PING: [u8; 8] = *b"alive?  ";

/// Asks and waits for answers.
pub(super) struct KeepAlive {
    clock: Pin<Box<Sleep>>,
    /// After so much silence a client is asked ...
    interval: Duration,
    /// ... and given so much time to answer.
    patience: Duration,
    asked: bool,
    /// Whether the client has said anything since the clock was set.
    heard: bool,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The client is to be asked.
    Ask,
    /// It did not answer.
    Lost,
}

impl KeepAlive {
    pub(super) fn new(interval: Duration, patience: Duration) -> Self {
        Self { clock: Box::pin(tokio::time::sleep(interval)), interval, patience, asked: false, heard: false }
    }

    /// The client has said something, which is as good as any answer.
    pub(super) fn hear(&mut self) {
        self.heard = true;
    }

    /// Ready when something is due; asks to be polled again then.
    pub(super) fn poll(&mut self, task: &mut Context<'_>) -> Poll<Due> {
        while self.clock.as_mut().poll(task).is_ready() {
            let heard = std::mem::take(&mut self.heard);
            if self.asked && !heard {
                return Poll::Ready(Due::Lost);
            }
            self.asked = !heard;
            let pause = if self.asked { self.patience } else { self.interval };
            // Longer than clocks tell is for ever.
            let now = Instant::now();
            self.clock.as_mut().reset(now.checked_add(pause).unwrap_or(now + Duration::from_secs(86_400 * 365)));
            if self.asked {
                return Poll::Ready(Due::Ask);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(keep_alive: &mut KeepAlive) -> Due {
        std::future::poll_fn(|task| keep_alive.poll(task)).await
    }

    #[tokio::test]
    async fn who_says_nothing_is_asked_and_then_lost() {
        let began = Instant::now();
        let (interval, patience) = (Duration::from_millis(30), Duration::from_millis(20));
        let mut keep_alive = KeepAlive::new(interval, patience);
        keep_alive.hear();
        assert_eq!(next(&mut keep_alive).await, Due::Ask);
        assert!(began.elapsed() >= 2 * interval, "what was heard gives another interval");
        keep_alive.hear();
        assert_eq!(next(&mut keep_alive).await, Due::Ask);
        assert!(began.elapsed() >= 3 * interval + patience, "an answer too");
        assert_eq!(next(&mut keep_alive).await, Due::Lost);
        assert!(began.elapsed() >= 3 * interval + 2 * patience);
    }
}
