//! The one place of these tests that sleeps.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Longest that a state may take to come about.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Looks until it is `Ok`; past the deadline panics with `what` and the last `Err`.
pub async fn until<T, E: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) => assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}; last seen: {last:#?}"),
        }
        tokio::time::sleep(STEP).await;
    }
}
