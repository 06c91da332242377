//! Waiting for a state: look, wait a moment, look again, until a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(50);

/// Calls `look` until it returns `Ok`, for at most `seconds`; then panics with `what` and the last `Err`.
#[track_caller]
pub fn until<T, E: Debug>(what: &str, seconds: u64, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => panic!("{what}: not within {seconds} s; last seen: {last:?}"),
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Waits for a moment chosen by the caller: for faults that are to strike at random times, never for a state.
pub fn strike_after(moment: Duration) {
    std::thread::sleep(moment);
}

/// The time that a simulated client lets pass between two of its actions; never for a state.
pub async fn pause(moment: Duration) {
    tokio::time::sleep(moment).await;
}
