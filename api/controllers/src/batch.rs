//! Many writes at once, carefully: one first, then twice as many in flight each time all went well.

use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::error::Error;

/// Most writes of one batch in flight.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// Makes `count` calls in rounds of 1, 2, 4, … up to `limit` at a time. After a failure no call is begun, so that a quota
/// or an admission refusal costs few; those in flight are waited for, as they may take effect. Returns how many succeeded,
/// and the first failure.
pub(crate) async fn slow_start<F>(count: usize, limit: usize, call: impl Fn(usize) -> F) -> (usize, Result<(), Error>)
where
    F: Future<Output = Result<(), Error>>,
{
    let (mut next, mut succeeded, mut width) = (0, 0, 1usize);
    let mut failure = None;
    let mut flight = FuturesUnordered::new();
    while next < count && failure.is_none() {
        // At full width there is nothing to learn from a round's end: keep the pipe full.
        let end = if width >= limit { count } else { count.min(next + width) };
        loop {
            while failure.is_none() && next < end && flight.len() < width {
                flight.push(call(next));
                next += 1;
            }
            match flight.next().await {
                None => break,
                Some(Ok(())) => succeeded += 1,
                Some(Err(error)) => {
                    failure.get_or_insert(error);
                }
            }
        }
        width = (width * 2).min(limit);
    }
    (succeeded, failure.map_or(Ok(()), Err))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn width_doubles_up_to_the_limit() {
        let (flight, most, calls) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let (done, outcome) = slow_start(1000, 16, async |_| {
            let now = flight.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(now, Ordering::Relaxed);
            let call = calls.fetch_add(1, Ordering::Relaxed);
            assert!(now <= call + 1, "no more in flight than calls that went well before");
            tokio::task::yield_now().await;
            flight.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        })
        .await;
        assert!(outcome.is_ok());
        assert_eq!((done, most.into_inner()), (1000, 16));
    }

    #[tokio::test]
    async fn a_failure_stops_the_batch_early() {
        let calls = AtomicUsize::new(0);
        let (done, outcome) = slow_start(1000, 64, async |at| {
            calls.fetch_add(1, Ordering::Relaxed);
            if at >= 5 { Err(Error::Invalid("quota".into())) } else { Ok(()) }
        })
        .await;
        assert_eq!(outcome.unwrap_err().to_string(), "quota");
        assert_eq!(done, 5);
        assert!(calls.into_inner() <= 7, "the round that failed was the last");
    }
}
