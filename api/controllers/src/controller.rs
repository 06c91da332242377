//! What a controller is, and the workers that run one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::queue::{Key, Queue};

/// One control loop: a queue of keys and what to do for one of them.
pub(crate) trait Controller: Send + Sync + 'static {
    /// For logs.
    const NAME: &'static str;

    /// The keys that wait.
    fn queue(&self) -> &Queue;

    /// Brings the world closer to what the object with this key asks for. Returns when to look again although nothing
    /// has changed. A failure is retried with backoff.
    fn sync(&self, key: &Key) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}

/// Starts the workers of a controller.
pub(crate) fn start<C: Controller>(
    controller: &Arc<C>,
    workers: usize,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) {
    for _ in 0..workers {
        let controller = controller.clone();
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            // A run under way is dropped at its next await: each write is atomic, and the next start goes on from there.
            let _ = shutdown.run_until_cancelled(work(&*controller)).await;
        });
    }
}

async fn work<C: Controller>(controller: &C) {
    let queue = controller.queue();
    loop {
        let key = queue.next().await;
        match controller.sync(&key).await {
            Ok(again) => {
                queue.forget(&key);
                if let Some(delay) = again {
                    queue.add_after(key.clone(), delay.max(Duration::from_millis(1)));
                }
            }
            Err(error) => {
                let delay = queue.retry(&key);
                if error.is_stale() {
                    tracing::debug!(controller = C::NAME, %key, %error, ?delay, "retrying");
                } else {
                    tracing::warn!(controller = C::NAME, %key, %error, ?delay, "retrying");
                }
            }
        }
        queue.done(&key);
    }
}
