//! Requests in flight: as many as may run, some that may wait, the rest are told to come again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::Config;
use crate::status::{Answer, Failure};

/// The bounds of one gateway.
pub struct Limits {
    reads: Semaphore,
    writes: Semaphore,
    max_reads: usize,
    max_writes: usize,
    waiting: AtomicUsize,
    max_waiting: usize,
    patience: Duration,
}

/// Counts one waiting request for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limits {
    pub fn new(config: &Config) -> Limits {
        Limits {
            reads: Semaphore::new(config.max_reads),
            writes: Semaphore::new(config.max_writes),
            max_reads: config.max_reads,
            max_writes: config.max_writes,
            waiting: AtomicUsize::new(0),
            max_waiting: config.max_waiting,
            patience: config.request_timeout / 4,
        }
    }

    /// Takes a place for a request, waiting for one if need be.
    ///
    /// # Errors
    /// 429 if too many wait already, or the wait takes too long.
    pub async fn enter(&self, method: &Method) -> Answer<SemaphorePermit<'_>> {
        let places =
            if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { &self.reads } else { &self.writes };
        if let Ok(place) = places.try_acquire() {
            return Ok(place);
        }
        let already = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if already >= self.max_waiting {
            return Err(Failure::too_many_requests());
        }
        match tokio::time::timeout(self.patience, places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Failure::too_many_requests()),
        }
    }

    /// Reads and writes in flight, and requests that wait.
    pub fn in_flight(&self) -> (usize, usize, usize) {
        let running = |max: usize, places: &Semaphore| max.saturating_sub(places.available_permits());
        let waiting = self.waiting.load(Ordering::Relaxed);
        (running(self.max_reads, &self.reads), running(self.max_writes, &self.writes), waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beyond_the_queue_requests_are_refused() {
        let config = Config { max_reads: 1, max_writes: 1, max_waiting: 1, ..Config::default() };
        let limits = std::sync::Arc::new(Limits::new(&config));
        let first = limits.enter(&Method::GET).await.unwrap();
        let _write = limits.enter(&Method::POST).await.unwrap();
        let second = tokio::spawn({
            let limits = limits.clone();
            async move { limits.enter(&Method::GET).await.map(drop) }
        });
        while limits.in_flight().2 == 0 {
            tokio::task::yield_now().await;
        }
        let refused = limits.enter(&Method::GET).await.unwrap_err();
        assert_eq!(refused.code(), 429);
        assert_eq!(refused.response().headers()["retry-after"], "1");
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!(limits.in_flight().2, 0);
    }
}
