//! Waiting for a state: look, and look again, until a deadline.

use std::time::Duration;

/// Longest that anything in these tests may take before it counts as stuck.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(1);

/// Looks until there is something to see.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut step = tokio::time::interval(STEP);
    let looking = async {
        loop {
            step.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Polls until a condition holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, async || holds().then_some(())).await;
}

/// Asks again, as clients do, until there is an answer that is none of `refusal`.
pub async fn insist<T, E: PartialEq>(
    what: &str,
    refusal: E,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    until(what, async || Some(ask().await).filter(|answer| answer.as_ref().err() != Some(&refusal))).await
}
