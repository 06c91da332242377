//! Waits for a state that comes about by itself.

use std::time::Duration;

use crate::harness::DEADLINE;

/// Asks until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
