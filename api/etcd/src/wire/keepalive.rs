//! Pings to clients that have said nothing for a while, so that those that are gone do not hold their place.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use super::socket::Outlet;

/// Asks and waits for answers.
pub(super) struct KeepAlive {
    pings: PingPong,
    clock: Pin<Box<Sleep>>,
    /// After so much silence a client is asked ...
    interval: Duration,
    /// ... and given so much time to answer.
    patience: Duration,
    asked: bool,
}

/// The client did not answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

impl KeepAlive {
    pub(super) fn new(pings: PingPong, interval: Duration, patience: Duration) -> Self {
        Self { pings, clock: Box::pin(tokio::time::sleep(interval)), interval, patience, asked: false }
    }

    fn wait(&mut self, time: Duration) {
        // Longer than clocks tell is for ever.
        let now = Instant::now();
        self.clock.as_mut().reset(now.checked_add(time).unwrap_or(now + Duration::from_secs(86_400 * 365)));
    }

    /// Ready when the client is lost. Whatever it says is as good as an answer.
    pub(super) fn poll<S>(&mut self, task: &mut Context<'_>, outlet: &Outlet<S>) -> Poll<Lost> {
        if self.asked && self.pings.poll_pong(task).is_ready() {
            self.asked = false;
            self.wait(self.interval);
        }
        while self.clock.as_mut().poll(task).is_ready() {
            if outlet.has_heard() {
                self.wait(self.interval);
            } else if self.asked {
                return Poll::Ready(Lost);
            } else if self.pings.send_ping(Ping::opaque()).is_ok() {
                self.asked = true;
                self.wait(self.patience);
                // The connection sends it on its next turn.
                task.waker().wake_by_ref();
            } else {
                // One of our own is under way, as there is at the end of a connection.
                self.wait(self.patience);
            }
        }
        Poll::Pending
    }
}
