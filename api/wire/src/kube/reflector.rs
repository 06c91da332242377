//! Keeps a local copy of a collection: streaming list, then watch, resumed and re-listed as the API requires.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::client::{ApiError, Client, Gvr, ListParams};
use super::meta::ObjectMeta;
use super::transport::Body;

/// Pause after the first failure; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Longest single event, in bytes: twice the store's request limit.
const MAX_EVENT: usize = 4 << 20;
/// Objects per page where the server does not stream lists.
const PAGE: usize = 500;

/// A view that carries object metadata.
pub trait Keyed: DeserializeOwned + Send + Sync + 'static {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
}

/// One change of the local copy. Both sides set: an update. At least one is set.
#[derive(Debug)]
pub struct Delta<T> {
    pub old: Option<Arc<T>>,
    pub new: Option<Arc<T>>,
}

impl<T> Delta<T> {
    /// The newest known state: the new one, or the last one of a deleted object.
    pub fn latest(&self) -> &Arc<T> {
        match (&self.new, &self.old) {
            (Some(new), _) => new,
            (None, Some(old)) => old,
            (None, None) => unreachable!("a delta has a side"),
        }
    }
}

/// The local copy, keyed by `namespace/name`. Readers never wait for the network.
pub struct Cache<T> {
    objects: RwLock<HashMap<Arc<str>, Arc<T>>>,
    synced: watch::Sender<bool>,
}

impl<T: Keyed> Cache<T> {
    /// An empty copy, not yet synced.
    pub fn new() -> Arc<Cache<T>> {
        Arc::new(Cache { objects: RwLock::default(), synced: watch::Sender::new(false) })
    }

    /// The object with this key (`namespace/name`, or `name`).
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.objects.read().get(key).cloned()
    }

    /// Every object, in no particular order.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.objects.read().values().cloned().collect()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.read().len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns once the first list is complete.
    pub async fn wait_synced(&self) {
        // The sender lives in `self`, so the wait can only end with the value.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn apply(&self, object: T, deltas: &mut Vec<Delta<T>>) {
        let key: Arc<str> = object.meta().key().into();
        let new = Arc::new(object);
        let mut objects = self.objects.write();
        // After a resumed watch the same change may come again: never go back in time.
        if objects.get(&key).is_some_and(|old| old.meta().revision() >= new.meta().revision()) {
            return;
        }
        let old = objects.insert(key, new.clone());
        deltas.push(Delta { old, new: Some(new) });
    }

    fn remove(&self, object: T, deltas: &mut Vec<Delta<T>>) {
        if self.objects.write().remove(object.meta().key().as_str()).is_some() {
            // The event carries the last state, with the deletion's resource version.
            deltas.push(Delta { old: Some(Arc::new(object)), new: None });
        }
    }

    fn replace(&self, listed: Vec<T>) -> Vec<Delta<T>> {
        let mut deltas = Vec::new();
        let mut objects = self.objects.write();
        let mut before = std::mem::take(&mut *objects);
        objects.reserve(listed.len());
        for object in listed {
            let key: Arc<str> = object.meta().key().into();
            let old = before.remove(&key);
            let unchanged =
                old.as_ref().is_some_and(|old| old.meta().resource_version == object.meta().resource_version);
            if let (true, Some(old)) = (unchanged, &old) {
                objects.insert(key, old.clone());
                continue;
            }
            let new = Arc::new(object);
            objects.insert(key, new.clone());
            deltas.push(Delta { old, new: Some(new) });
        }
        deltas.extend(before.into_values().map(|old| Delta { old: Some(old), new: None }));
        deltas
    }
}

/// What to reflect.
pub struct Reflector {
    pub client: Client,
    pub gvr: Gvr,
    /// Empty for all namespaces.
    pub namespace: String,
    /// Selectors only; the rest is the reflector's own.
    pub params: ListParams,
}

/// One event of a watch, its object not yet decoded.
#[derive(serde::Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(serde::Deserialize)]
struct Bookmark {
    metadata: ObjectMeta,
}

/// How one watch ended.
enum End {
    /// The connection closed: go on from the last resource version.
    Resume,
    /// The last resource version is of no use any more: list again.
    Relist,
}

impl Reflector {
    /// A reflector of a whole collection.
    pub fn all(client: Client, gvr: Gvr) -> Reflector {
        Reflector { client, gvr, namespace: String::new(), params: ListParams::default() }
    }

    /// Keeps `cache` true until dropped. `changed` sees each batch of changes after it is in the cache, in order.
    pub async fn run<T: Keyed>(self, cache: Arc<Cache<T>>, mut changed: impl FnMut(Vec<Delta<T>>) + Send) {
        let mut resource_version = String::new();
        let mut streams_lists = true;
        let mut backoff = MIN_BACKOFF;
        loop {
            let listing = resource_version.is_empty();
            let outcome = if listing && !streams_lists {
                self.page(&cache, &mut changed).await.map(|listed| {
                    resource_version = listed;
                    End::Resume
                })
            } else {
                self.stream(&cache, &mut changed, &mut resource_version).await
            };
            match outcome {
                Ok(End::Resume) => backoff = MIN_BACKOFF,
                Ok(End::Relist) => resource_version.clear(),
                Err(error) => {
                    match &error {
                        error if error.is_expired() => resource_version.clear(),
                        // A server that knows no streaming list says so with a 4xx: read pages instead.
                        ApiError::Status { code: 400 | 403 | 405 | 422, .. } if listing => streams_lists = false,
                        _ => {}
                    }
                    tracing::debug!(resource = self.gvr.resource, %error, "watch failed, retrying");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    /// Lists page by page and returns the list's resource version.
    async fn page<T: Keyed>(
        &self,
        cache: &Cache<T>,
        changed: &mut (impl FnMut(Vec<Delta<T>>) + Send),
    ) -> Result<String, ApiError> {
        let mut params = ListParams { limit: PAGE, ..self.params.clone() };
        let mut listed = Vec::new();
        loop {
            let page = self.client.list::<T>(&self.gvr, &self.namespace, &params).await?;
            listed.extend(page.items);
            if page.metadata.continue_token.is_empty() {
                changed(cache.replace(listed));
                cache.synced.send_replace(true);
                return Ok(page.metadata.resource_version);
            }
            params.continue_token = page.metadata.continue_token;
        }
    }

    /// Watches; with an empty resource version the watch begins with the whole collection.
    async fn stream<T: Keyed>(
        &self,
        cache: &Cache<T>,
        changed: &mut (impl FnMut(Vec<Delta<T>>) + Send),
        resource_version: &mut String,
    ) -> Result<End, ApiError> {
        let mut initial = resource_version.is_empty().then(Vec::new);
        let mut extra = vec![("watch", "true"), ("allowWatchBookmarks", "true")];
        if initial.is_some() {
            extra.extend([("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]);
        }
        let params = ListParams { resource_version: resource_version.clone(), ..self.params.clone() };
        let mut body = self.client.watch(&self.gvr, &self.namespace, &params, &extra).await?;
        let mut lines = Lines::default();
        while let Some(chunk) = next_chunk(&mut body).await? {
            let mut deltas = Vec::new();
            lines.push(chunk)?;
            while let Some(line) = lines.next() {
                let event: Event = serde_json::from_slice(&line)?;
                match event.kind {
                    "ADDED" | "MODIFIED" | "DELETED" => {
                        let object: T = serde_json::from_str(event.object.get())?;
                        if let Some(listed) = &mut initial {
                            listed.push(object);
                            continue;
                        }
                        resource_version.clear();
                        resource_version.push_str(&object.meta().resource_version);
                        if event.kind == "DELETED" {
                            cache.remove(object, &mut deltas);
                        } else {
                            cache.apply(object, &mut deltas);
                        }
                    }
                    "BOOKMARK" => {
                        let bookmark: Bookmark = serde_json::from_str(event.object.get())?;
                        let ends_list = bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end");
                        if let Some(listed) = initial.take_if(|_| ends_list) {
                            changed(cache.replace(listed));
                            cache.synced.send_replace(true);
                        }
                        if initial.is_none() {
                            *resource_version = bookmark.metadata.resource_version.to_string();
                        }
                    }
                    _ => {
                        tracing::debug!(resource = self.gvr.resource, event = event.object.get(), "watch expired");
                        return Ok(End::Relist);
                    }
                }
            }
            if !deltas.is_empty() {
                changed(deltas);
            }
        }
        Ok(if initial.is_some() { End::Relist } else { End::Resume })
    }
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(ApiError::Transport)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Cuts a byte stream into lines; a whole line in one chunk is not copied.
#[derive(Default)]
struct Lines {
    partial: BytesMut,
    chunk: Bytes,
}

impl Lines {
    fn push(&mut self, chunk: Bytes) -> Result<(), ApiError> {
        if self.partial.len() + chunk.len() > MAX_EVENT.max(chunk.len()) {
            return Err(ApiError::Transport("a watch event is larger than 4 MiB".into()));
        }
        self.chunk = chunk;
        Ok(())
    }

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') else {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk.clear();
                return None;
            };
            let mut line = self.chunk.split_to(end);
            self.chunk.advance(1);
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(&line);
                line = self.partial.split().freeze();
            }
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_chunking() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}\n";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(Bytes::copy_from_slice(chunk)).unwrap();
                while let Some(line) = lines.next() {
                    seen.push(line);
                }
            }
            assert_eq!(seen, [&b"{\"a\":1}"[..], b"{\"b\":2}", b"{\"c\":3}"]);
        }
    }
}
