//! Time that passes between two looks, or between two renewals.

use std::time::Duration;

/// Between two looks whether the server is there.
pub async fn step() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Between two renewals of a lease of two seconds.
pub async fn renewal() {
    tokio::time::sleep(Duration::from_millis(700)).await;
}
