//! Waiting, in simulated time: which passes at once when nobody has anything to do.

use std::time::Duration;

/// Lets time pass.
pub async fn pause(moment: Duration) {
    tokio::time::sleep(moment).await;
}

/// Looks every 10 ms until there is something to see, for at most `limit`.
pub async fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let waiting = async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            pause(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(limit, waiting).await.ok()
}
