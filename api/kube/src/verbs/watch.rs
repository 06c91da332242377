//! Watching a collection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kelson_wire::kube::{Body, BoxError, full};
use rand::Rng;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::encode::{append_metadata, include, table_head};
use crate::cache::{Entry, Event, EventKind, Pulled, Scope, Start, Watcher};
use crate::gateway::Call;
use crate::media::Form;
use crate::query::{options_error, resource_version};
use crate::registry::Resource;
use crate::selector::Selector;
use crate::shape;
use crate::status::{Answer, Failure};
use crate::table::Include;

/// Changes taken from the ring at a time.
const BATCH: usize = 512;
/// Bytes of events put into one frame.
const FRAME: usize = 256 << 10;
/// A watch without `timeoutSeconds` ends after this long, or up to twice as long.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// `GET …?watch=true`.
pub async fn watch(call: &Call<'_>) -> Answer<Response<Body>> {
    let row = call.row();
    let query = &call.query;
    let mut selector = Selector::parse(row, query.get("labelSelector"), query.get("fieldSelector"))?;
    if !call.target.name.is_empty() {
        selector = selector.and_name(&call.target.name);
    }
    let initial_events = initial_events(call)?;
    let version = resource_version(query.get("resourceVersion"))?;
    let store = &*call.gateway.store;
    let cache = call.cache();
    let start = match (initial_events, version) {
        (None | Some(true), None) => {
            cache.wait_current(store).await?;
            Start::Initial
        }
        (None, Some(0)) => Start::Initial,
        (Some(true), Some(version)) => {
            cache.wait_for(store, version).await?;
            Start::Initial
        }
        (Some(false), None | Some(0)) => Start::After(cache.revision()),
        (None | Some(false), Some(version)) => Start::After(version),
    };
    let namespace = match call.target.namespace.as_str() {
        "" if row.namespaced => selector.namespace().unwrap_or(""),
        namespace => namespace,
    };
    let scope = scope(row, namespace, &selector);
    let prefix = row.prefix(namespace);
    let (watcher, snapshot) = match cache.open(scope, start, prefix.as_bytes()) {
        Ok(opened) => opened,
        // As kube-apiserver does: once the request is understood, the watch opens, and ends with the reason.
        Err(failure) => return Ok(stream_of(full(error_line(&failure)))),
    };
    let timeout = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => DEFAULT_TIMEOUT.mul_f64(rand::rng().random_range(1.0..2.0)),
    };
    let bookmarks = query.flag("allowWatchBookmarks").then(|| {
        let mut interval = tokio::time::interval(call.gateway.config.bookmark_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval.reset();
        interval
    });
    let open = Open {
        watcher,
        row,
        namespace: namespace.to_string(),
        selector,
        form: call.accept.form,
        include: include(call)?,
        columns_sent: false,
        initial: snapshot.entries.into_iter(),
        initial_end: (initial_events == Some(true)).then_some(snapshot.revision),
        after: match start {
            Start::After(revision) => revision,
            Start::Initial => snapshot.revision,
        },
        bookmarks,
        deadline: Instant::now() + timeout.min(Duration::from_secs(7 * 86_400)),
        closing: call.parts.extensions.get::<CancellationToken>().cloned().unwrap_or_default(),
        ended: false,
    };
    let frames = stream::unfold(open, |mut open| async move {
        let chunk = open.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(chunk)), open))
    });
    Ok(stream_of(StreamBody::new(frames).boxed_unsync()))
}

fn stream_of(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The event that ends a watch which cannot go on.
fn error_line(failure: &Failure) -> Bytes {
    format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure.to_value()).into()
}

/// `sendInitialEvents`, checked against what it requires.
fn initial_events(call: &Call<'_>) -> Answer<Option<bool>> {
    let query = &call.query;
    let matching = query.get("resourceVersionMatch");
    let forbidden = |message: &str| {
        Err(options_error(
            "ListOptions",
            "FieldValueForbidden",
            format!("Forbidden: {message}"),
            "resourceVersionMatch",
        ))
    };
    if !query.has("sendInitialEvents") {
        if !matching.is_empty() {
            return forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        return Ok(None);
    }
    if matching != "NotOlderThan" {
        return forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    Ok(Some(query.flag("sendInitialEvents")))
}

/// The narrowest channel that carries everything the watch may see.
fn scope(row: &Resource, namespace: &str, selector: &Selector) -> Scope {
    let known = !row.namespaced || !namespace.is_empty();
    if let Some(name) = selector.name().filter(|_| known) {
        return Scope::Object(row.key(namespace, name).into());
    }
    if let Some((_, value)) = selector.indexed(row) {
        return Scope::Field(Bytes::copy_from_slice(value.as_bytes()));
    }
    if row.namespaced && !namespace.is_empty() {
        return Scope::Namespace(Bytes::copy_from_slice(namespace.as_bytes()));
    }
    Scope::All
}

/// A watch being served.
struct Open {
    watcher: Watcher,
    row: &'static Resource,
    /// Empty for all; the scope may be another one (the pods of a node).
    namespace: String,
    selector: Selector,
    form: Form,
    include: Include,
    columns_sent: bool,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// The revision to announce once the initial events are out.
    initial_end: Option<i64>,
    /// Changes up to this revision are not wanted.
    after: i64,
    bookmarks: Option<Interval>,
    deadline: Instant,
    closing: CancellationToken,
    ended: bool,
}

impl Open {
    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(chunk) = self.initial_chunk() {
            return Some(chunk);
        }
        loop {
            let reached = match self.watcher.pull(BATCH) {
                Pulled::Events(events) => match self.encode(&events) {
                    Some(chunk) => return Some(chunk),
                    None => continue,
                },
                Pulled::Lost => {
                    self.ended = true;
                    let failure =
                        Failure::expired("too old resource version: the watch fell behind the changes that are kept");
                    return Some(error_line(&failure));
                }
                Pulled::Idle(reached) => reached,
            };
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(interval) => interval.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.watcher.changed() => {}
                _ = bookmark => return Some(self.bookmark(reached.max(self.after), false)),
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.closing.cancelled() => return None,
            }
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || entry.namespace() == self.namespace) && self.selector.matches(self.row, entry)
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while let Some(entry) = self.initial.next() {
            if self.wants(&entry) {
                self.append(EventKind::Added, &entry, &mut chunk);
            }
            if chunk.len() >= FRAME {
                return Some(chunk.into());
            }
        }
        if let Some(revision) = self.initial_end.take() {
            chunk.extend_from_slice(&self.bookmark(revision, true));
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    /// What this watcher gets to see of some changes; `None` if that is nothing.
    fn encode(&mut self, events: &[Arc<Event>]) -> Option<Bytes> {
        // One event goes out as the bytes that every watcher shares; only more of them are copied together.
        let mut single: Option<Bytes> = None;
        let mut chunk: Vec<u8> = Vec::new();
        for event in events {
            if event.revision <= self.after {
                continue;
            }
            let Some(line) = self.line(event) else { continue };
            if chunk.is_empty() {
                match single.take() {
                    None => {
                        single = Some(line);
                        continue;
                    }
                    Some(first) => {
                        chunk.reserve(first.len() + line.len() * 4);
                        chunk.extend_from_slice(&first);
                    }
                }
            }
            chunk.extend_from_slice(&line);
        }
        if chunk.is_empty() { single } else { Some(chunk.into()) }
    }

    fn line(&mut self, event: &Event) -> Option<Bytes> {
        let before = event.previous.as_ref().is_some_and(|previous| self.wants(previous));
        let now = !event.deleted && self.wants(&event.entry);
        let kind = match (before, now) {
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
            (false, false) => return None,
        };
        if self.form == Form::Object {
            return Some(match (&event.previous, kind) {
                // It left the selector: its last state inside, at the revision at which it left.
                (Some(previous), EventKind::Deleted) if !event.deleted => previous.at_revision(kind, event.revision),
                _ => event.entry.line(kind),
            });
        }
        let mut line = Vec::new();
        match (&event.previous, kind) {
            (Some(previous), EventKind::Deleted) if !event.deleted => {
                let left = previous.deleted(event.revision);
                self.append(kind, &left, &mut line);
            }
            _ => self.append(kind, &event.entry, &mut line),
        }
        Some(line.into())
    }

    fn append(&mut self, kind: EventKind, entry: &Entry, to: &mut Vec<u8>) {
        let text = entry.object_bytes();
        match self.form {
            Form::Object => entry.append_line(kind, to),
            Form::Metadata(version) => {
                to.extend_from_slice(format!("{{\"type\":\"{}\",\"object\":", kind.name()).as_bytes());
                append_metadata(text, version, to);
                to.extend_from_slice(b"}\n");
            }
            Form::Table(version) => {
                to.extend_from_slice(format!("{{\"type\":\"{}\",\"object\":", kind.name()).as_bytes());
                let metadata = format!("{{\"resourceVersion\":\"{}\"}}", entry.revision);
                if self.columns_sent {
                    let head = format!(
                        "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"columnDefinitions\":[],\"rows\":["
                    );
                    to.extend_from_slice(head.as_bytes());
                } else {
                    to.extend_from_slice(&table_head(self.row, version, &metadata));
                    self.columns_sent = true;
                }
                // An object that cannot be shown as a row still is an event: the row is left out.
                if let Err(failure) = shape::append_row(self.row, text, self.include, to) {
                    tracing::warn!(key = %String::from_utf8_lossy(&entry.key), message = failure.message(), "no table row");
                }
                to.extend_from_slice(b"]}}\n");
            }
        }
    }

    fn bookmark(&self, revision: i64, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({"kind": self.row.kind, "apiVersion": self.row.api_version(), "metadata": metadata}),
            Form::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata})
            }
            Form::Table(version) => json!({
                "kind": "Table", "apiVersion": version, "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": [],
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata,
                }}],
            }),
        };
        format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").into()
    }
}
