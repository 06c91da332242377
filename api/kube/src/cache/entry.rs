//! One cached object: the bytes that clients get, and where in them the selectors' values are.

use std::ops::Range;

use bytes::Bytes;
use kelson_wire::store::Object;

use crate::registry::Resource;
use crate::scan;

/// What happened to an object, from a watcher's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    fn head(self) -> &'static [u8] {
        match self {
            EventKind::Added => b"{\"type\":\"ADDED\",\"object\":",
            EventKind::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            EventKind::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }

    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

/// What ends an event line.
const TAIL: &[u8] = b"}\n";

/// A span of [`Entry::line`].
type Span = (u32, u32);

/// One object at one revision. The line is the whole watch event; the object is a part of it, so both cost one
/// allocation.
#[derive(Debug)]
pub struct Entry {
    /// The store key.
    pub key: Bytes,
    /// Its modification revision.
    pub revision: i64,
    kind: EventKind,
    line: Bytes,
    digits: Span,
    labels: Span,
    /// Raw values, in the order of [`Resource::fields`]; empty where absent.
    fields: Box<[Span]>,
    /// Where namespace and name start in the key; equal for cluster-scoped objects.
    namespace_at: u16,
    name_at: u16,
    /// Position of the indexed field of the row plus one, 0 for none.
    index: u8,
}

impl Entry {
    /// Encodes a stored object. `None` if its value is no JSON object with metadata.
    pub fn new(row: &'static Resource, object: &Object) -> Option<Entry> {
        Entry::with_kind(row, object, EventKind::Added)
    }

    /// [`Entry::new`] whose line is ready to send as an event of this kind.
    pub fn with_kind(row: &'static Resource, object: &Object, kind: EventKind) -> Option<Entry> {
        let spliced = scan::splice(kind.head(), &object.value, object.mod_revision, TAIL)?;
        let namespace_at = "/registry/".len() + row.storage.len() + 1;
        let rest = object.key.get(namespace_at..)?;
        let name_at = namespace_at + memchr::memchr(b'/', rest).filter(|_| row.namespaced).map_or(0, |slash| slash + 1);
        // Keys that are no UTF-8 were not written by an API server.
        std::str::from_utf8(rest).ok()?;
        let start = kind.head().len();
        let text = &spliced.text;
        let labels = scan::member(text, start, "metadata")
            .and_then(|metadata| scan::member(text, metadata.start, "labels"))
            .unwrap_or_default();
        let fields = row.fields.iter().map(|field| span(&locate(text, start, field.path))).collect();
        let index = row.fields.iter().position(|field| field.indexed).map_or(0, |position| position as u8 + 1);
        Some(Entry {
            // A copy of its own: the store's may be a slice of a much larger buffer, which it would keep alive.
            key: Bytes::copy_from_slice(&object.key),
            revision: object.mod_revision,
            kind,
            digits: span(&spliced.revision),
            labels: span(&labels),
            fields,
            namespace_at: u16::try_from(namespace_at).ok()?,
            name_at: u16::try_from(name_at).ok()?,
            index,
            line: spliced.text.into(),
        })
    }

    /// The last state of an object that was deleted at `revision`, with that as its resource version.
    pub fn deleted(&self, revision: i64) -> Entry {
        let line = self.at_revision(EventKind::Deleted, revision);
        let shift = EventKind::Deleted.head().len() as i64 - self.kind.head().len() as i64;
        // Spans after the digits move further if the new revision has more of them.
        let growth = decimal_length(revision) as i64 - i64::from(self.digits.1 - self.digits.0);
        let moved = |(start, end): Span| {
            if start == end {
                return (0, 0);
            }
            let by = if start > self.digits.0 { shift + growth } else { shift };
            ((i64::from(start) + by) as u32, (i64::from(end) + by) as u32)
        };
        let digits = (i64::from(self.digits.0) + shift) as u32;
        Entry {
            key: self.key.clone(),
            revision,
            kind: EventKind::Deleted,
            labels: moved(self.labels),
            fields: self.fields.iter().map(|span| moved(*span)).collect(),
            digits: (digits, digits + decimal_length(revision) as u32),
            namespace_at: self.namespace_at,
            name_at: self.name_at,
            index: self.index,
            line,
        }
    }

    /// The object, with its resource version.
    pub fn object(&self) -> Bytes {
        self.line.slice(self.kind.head().len()..self.line.len() - TAIL.len())
    }

    /// The same without a reference count.
    pub fn object_bytes(&self) -> &[u8] {
        &self.line[self.kind.head().len()..self.line.len() - TAIL.len()]
    }

    /// The event line for watchers to whom this is an event of `kind`.
    pub fn line(&self, kind: EventKind) -> Bytes {
        if kind == self.kind {
            return self.line.clone();
        }
        let mut line = Vec::with_capacity(self.line.len() + 4);
        self.append_line(kind, &mut line);
        line.into()
    }

    /// Appends the event line.
    pub fn append_line(&self, kind: EventKind, to: &mut Vec<u8>) {
        to.extend_from_slice(kind.head());
        to.extend_from_slice(&self.line[self.kind.head().len()..]);
    }

    /// The event line of this object as if it had been written at `revision` (what a watcher gets whose selector the
    /// object just left).
    pub fn at_revision(&self, kind: EventKind, revision: i64) -> Bytes {
        let mut digits = itoa::Buffer::new();
        let (start, end) = (self.digits.0 as usize, self.digits.1 as usize);
        let mut line = Vec::with_capacity(self.line.len() + 8);
        line.extend_from_slice(kind.head());
        line.extend_from_slice(&self.line[self.kind.head().len()..start]);
        line.extend_from_slice(digits.format(revision).as_bytes());
        line.extend_from_slice(&self.line[end..]);
        line.into()
    }

    /// Length of the event line in bytes.
    pub fn size(&self) -> usize {
        self.line.len()
    }

    /// `metadata.namespace`, empty for a cluster-scoped object.
    pub fn namespace(&self) -> &str {
        let end = (self.name_at as usize).saturating_sub(1).max(self.namespace_at as usize);
        std::str::from_utf8(&self.key[self.namespace_at as usize..end]).unwrap_or_default()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.key[self.name_at as usize..]).unwrap_or_default()
    }

    /// JSON text of the labels, empty if there are none.
    pub fn labels(&self) -> &[u8] {
        self.text(self.labels)
    }

    /// JSON text of a selectable field, empty if it is absent.
    pub fn field(&self, number: usize) -> &[u8] {
        self.fields.get(number).map_or(&[], |span| self.text(*span))
    }

    /// The value of the row's indexed field without its quotes; `None` if it is absent.
    pub fn indexed(&self) -> Option<&[u8]> {
        let raw = self.field(usize::from(self.index).checked_sub(1)?);
        scan::scalar(raw).filter(|text| !text.is_empty()).map(str::as_bytes)
    }

    fn text(&self, span: Span) -> &[u8] {
        &self.line[span.0 as usize..span.1 as usize]
    }
}

fn span(range: &Range<usize>) -> Span {
    // A value is at most some megabytes: the store refuses more.
    (range.start as u32, range.end as u32)
}

fn locate(text: &[u8], start: usize, path: &[&str]) -> Range<usize> {
    let mut at = start;
    let mut found = 0..0;
    for key in path {
        match scan::member(text, at, key) {
            Some(range) => {
                at = range.start;
                found = range;
            }
            None => return 0..0,
        }
    }
    found
}

fn decimal_length(number: i64) -> usize {
    itoa::Buffer::new().format(number).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn entry(revision: i64, kind: EventKind) -> Entry {
        let value = r#"{"kind":"Pod","metadata":{"labels":{"app":"web"},"name":"web-0"},"spec":{"nodeName":"n1"}}"#;
        let object = Object {
            key: "/registry/pods/default/web-0".into(),
            value: value.into(),
            mod_revision: revision,
            create_revision: 1,
            lease: 0,
        };
        Entry::with_kind(registry::core("pods").1, &object, kind).unwrap()
    }

    #[test]
    fn a_deleted_entry_keeps_its_fields_in_place() {
        for kind in [EventKind::Added, EventKind::Modified] {
            let deleted = entry(9, kind).deleted(12345);
            assert_eq!(deleted.labels(), br#"{"app":"web"}"#);
            assert_eq!(deleted.indexed(), Some(&b"n1"[..]));
            assert_eq!(deleted.field(1), b"");
            assert_eq!((deleted.namespace(), deleted.name()), ("default", "web-0"));
            let line: serde_json::Value = serde_json::from_slice(&deleted.line(EventKind::Deleted)).unwrap();
            assert_eq!(line["type"], "DELETED");
            assert_eq!(line["object"]["metadata"]["resourceVersion"], "12345");
            let again = deleted.deleted(7);
            assert_eq!(again.labels(), br#"{"app":"web"}"#);
        }
    }

    #[test]
    fn the_line_of_its_own_kind_is_shared() {
        let entry = entry(9, EventKind::Modified);
        assert_eq!(entry.line(EventKind::Modified).as_ptr(), entry.line.as_ptr());
        assert!(entry.line(EventKind::Added).starts_with(b"{\"type\":\"ADDED\",\"object\":{\"kind\""));
        assert_eq!(&entry.object()[..], entry.object_bytes());
    }
}
