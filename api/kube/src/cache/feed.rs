//! Keeps one cache in step with the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use kelson_wire::store::{ListOptions, Store, StoreError};

use super::{Cache, Entry, needs_list};

/// Objects per page of the first list.
const PAGE: usize = 1_000;
/// Batches of changes taken in one go when many are ready.
const BATCHES: usize = 64;
/// Pause after the first failure; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Lists, then watches, for ever. A broken watch resumes where it ended; only lost history makes it list again.
pub async fn run(cache: Arc<Cache>, store: Arc<dyn Store>) {
    let mut backoff = MIN_BACKOFF;
    let mut listed = false;
    loop {
        let outcome = if listed {
            follow(&cache, &*store, &mut backoff).await
        } else {
            fill(&cache, &*store).await.map(|()| listed = true)
        };
        if let Err(error) = outcome {
            tracing::warn!(resource = cache.row.plural, %error, "watch cache lost the store, retrying");
            listed &= !needs_list(&error);
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }
}

async fn fill(cache: &Cache, store: &dyn Store) -> Result<(), StoreError> {
    let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
    let mut entries = Vec::new();
    loop {
        let page = store.list(cache.prefix.clone(), options.clone()).await?;
        if options.revision == 0 {
            options.revision = page.revision;
        }
        if let Some(last) = page.objects.last() {
            let mut next = last.key.to_vec();
            next.push(0);
            options.start_key = Some(Bytes::from(next));
        }
        for object in &page.objects {
            match Entry::new(cache.row, object) {
                Some(entry) => entries.push(Arc::new(entry)),
                None => {
                    tracing::warn!(key = %String::from_utf8_lossy(&object.key), "stored value is no JSON object, skipped");
                }
            }
        }
        if !page.more {
            cache.reset(options.revision, entries);
            return Ok(());
        }
    }
}

async fn follow(cache: &Cache, store: &dyn Store, backoff: &mut Duration) -> Result<(), StoreError> {
    let changes = store.watch(cache.prefix.clone(), cache.revision() + 1).await?;
    let mut changes = changes.ready_chunks(BATCHES);
    while let Some(ready) = changes.next().await {
        *backoff = MIN_BACKOFF;
        let mut batch = Vec::new();
        let mut failed = None;
        for item in ready {
            match item {
                Ok(more) if batch.is_empty() => batch = more,
                Ok(more) => batch.extend(more),
                Err(error) => failed = Some(error),
            }
        }
        cache.apply(batch);
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Err(StoreError::Unavailable("the store closed the watch".into()))
}
