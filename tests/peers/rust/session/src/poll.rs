//! Waiting for a state: look, wait a moment, look again, until a deadline.

use std::time::{Duration, Instant};

/// Longest that a state may take to come about.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(50);

/// Looks until it `holds`.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), String> {
    let begun = Instant::now();
    while !holds().await {
        if begun.elapsed() > DEADLINE {
            return Err(format!("{what}: not within {DEADLINE:?}"));
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}
