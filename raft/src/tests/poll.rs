//! The one place of these tests that sleeps.

use std::time::Duration;

/// Longest that anything in these tests may take before it counts as stuck.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until a condition holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, patience).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Asks again, as clients do, until there is an answer that is none of `refusal`.
pub async fn insist<T, E: PartialEq>(
    what: &str,
    refusal: E,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let patience = async {
        loop {
            match ask().await {
                Err(error) if error == refusal => tokio::time::sleep(Duration::from_millis(1)).await,
                answer => return answer,
            }
        }
    };
    tokio::time::timeout(DEADLINE, patience).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
