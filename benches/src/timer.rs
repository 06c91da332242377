//! A timer that is exact to some microseconds: the runtime's own wheel turns once in a millisecond, which is as long as
//! a whole answer takes here.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of the kernel, waited for by the runtime that made it.
pub struct Timer {
    descriptor: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// If the kernel has no descriptor left.
    pub fn new() -> std::io::Result<Timer> {
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned, hence open until the `AsyncFd` drops it, and nothing here replaces it.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Timer { descriptor: registered? })
    }

    /// Waits that long.
    ///
    /// # Errors
    /// None that the kernel documents for a timer of our own.
    pub async fn wait(&self, delay: Duration) -> std::io::Result<()> {
        // A delay of zero would take the timer back.
        let delay = delay.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: delay.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.descriptor.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut guard = self.descriptor.readable().await?;
            let read = guard.try_io(|inner| {
                let mut count = [0; 8];
                Ok(rustix::io::read(inner.get_ref(), &mut count)?)
            });
            match read {
                Ok(result) => return result.map(|_| ()),
                Err(_not_yet) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_never_ends_early_and_can_be_set_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let timer = Timer::new().unwrap();
            for micros in [0, 50, 3_000, 1] {
                let began = Instant::now();
                timer.wait(Duration::from_micros(micros)).await.unwrap();
                assert!(began.elapsed() >= Duration::from_micros(micros), "{micros}");
            }
        });
    }
}
