//! Reads JSON text in place: where a member starts and ends, without building values.
//!
//! The read path never parses an object: the resource version is spliced into the stored bytes, selectors look at
//! byte ranges. Text comes from the store, so it may be anything: a malformed text yields fewer members, never a panic.

use std::ops::Range;

/// Members of one JSON object, in their order in the text.
pub struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

/// Iterates over the object whose `{` is at `at` (leading white space allowed). Ranges are positions in `text`.
pub fn members(text: &[u8], at: usize) -> Members<'_> {
    let at = skip_space(text, at);
    let at = if text.get(at) == Some(&b'{') { at + 1 } else { text.len() };
    Members { text, at }
}

impl<'a> Iterator for Members<'a> {
    /// The key as written between its quotes, and the range of its value.
    type Item = (&'a [u8], Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut at = skip_space(self.text, self.at);
        if self.text.get(at) == Some(&b',') {
            at = skip_space(self.text, at + 1);
        }
        if self.text.get(at) != Some(&b'"') {
            return None;
        }
        let end = skip_string(self.text, at)?;
        let key = &self.text[at + 1..end - 1];
        let colon = skip_space(self.text, end);
        if self.text.get(colon) != Some(&b':') {
            return None;
        }
        let start = skip_space(self.text, colon + 1);
        let end = skip_value(self.text, start)?;
        self.at = end;
        Some((key, start..end))
    }
}

/// The range of the member called `key` of the object at `at`.
pub fn member(text: &[u8], at: usize, key: &str) -> Option<Range<usize>> {
    members(text, at).find(|(name, _)| *name == key.as_bytes()).map(|(_, range)| range)
}

/// The range of the value at a path of object keys, from the top.
pub fn path(text: &[u8], keys: &[&str]) -> Option<Range<usize>> {
    let mut range = 0..text.len();
    for key in keys {
        range = member(text, range.start, key)?;
    }
    Some(range)
}

/// What is between the quotes of a JSON string without escapes; a number or a literal as it stands. `None` for a
/// string with escapes, an object or an array.
pub fn scalar(raw: &[u8]) -> Option<&str> {
    let inner = match raw {
        [b'"', inner @ .., b'"'] if memchr::memchr(b'\\', inner).is_none() => inner,
        [b'"' | b'{' | b'[', ..] => return None,
        other => other,
    };
    std::str::from_utf8(inner).ok()
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Position after the string that starts at `at`.
fn skip_string(text: &[u8], at: usize) -> Option<usize> {
    let mut from = at + 1;
    loop {
        let found = from + memchr::memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[found] == b'"' {
            return Some(found + 1);
        }
        from = found + 2;
    }
}

fn skip_value(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => skip_string(text, at),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = at;
            loop {
                match text.get(at)? {
                    b'"' => {
                        at = skip_string(text, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        _ => {
            let end =
                text[at..].iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
            Some(end.map_or(text.len(), |end| at + end))
        }
    }
}

/// A copy of an object with its resource version in it.
pub struct Spliced {
    pub text: Vec<u8>,
    /// Where the digits of the resource version are.
    pub revision: Range<usize>,
}

/// `before` + the stored object with `metadata.resourceVersion` set to `revision` + `after`. `None` if `stored` is
/// no JSON object with a metadata object in it.
pub fn splice(before: &[u8], stored: &[u8], revision: i64, after: &[u8]) -> Option<Spliced> {
    let metadata = member(stored, 0, "metadata")?;
    if stored.get(metadata.start) != Some(&b'{') {
        return None;
    }
    let open = metadata.start + 1;
    // Whoever wrote the object by hand may have left one in: it would be a second key of the same name.
    let stale = member(stored, metadata.start, "resourceVersion");
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(revision);
    let mut text = Vec::with_capacity(before.len() + stored.len() + after.len() + digits.len() + 22);
    text.extend_from_slice(before);
    if let Some(stale) = stale {
        text.extend_from_slice(&stored[..stale.start]);
        text.push(b'"');
        let at = text.len();
        text.extend_from_slice(digits.as_bytes());
        text.push(b'"');
        text.extend_from_slice(&stored[stale.end..]);
        text.extend_from_slice(after);
        return Some(Spliced { text, revision: at..at + digits.len() });
    }
    text.extend_from_slice(&stored[..open]);
    text.extend_from_slice(b"\"resourceVersion\":\"");
    let at = text.len();
    text.extend_from_slice(digits.as_bytes());
    text.push(b'"');
    if stored.get(skip_space(stored, open)) != Some(&b'}') {
        text.push(b',');
    }
    text.extend_from_slice(&stored[open..]);
    text.extend_from_slice(after);
    Some(Spliced { text, revision: at..at + digits.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn splice_sets_only_the_resource_version(spec in value(), labels in value(), pretty: bool, stale: bool) {
            let mut object = json!({"apiVersion": "v1", "data": spec, "metadata": {"name": "a", "labels": labels}});
            if stale {
                object["metadata"]["resourceVersion"] = json!("7");
            }
            let text = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
            let spliced = splice(b"<", &text, 42, b">").unwrap();
            prop_assert_eq!(&spliced.text[spliced.revision.clone()], b"42");
            let inner = &spliced.text[1..spliced.text.len() - 1];
            object["metadata"]["resourceVersion"] = json!("42");
            prop_assert_eq!(serde_json::from_slice::<Value>(inner).unwrap(), object);
        }

        #[test]
        fn members_agree_with_the_parser(object in prop::collection::btree_map("[a-z]{1,4}", value(), 0..5)) {
            let text = serde_json::to_vec(&object).unwrap();
            let found: Vec<_> = members(&text, 0)
                .map(|(key, range)| (key.to_vec(), serde_json::from_slice::<Value>(&text[range]).unwrap()))
                .collect();
            let wanted: Vec<_> = object.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn garbage_never_panics(text in prop::collection::vec(prop::sample::select(b"{}[]\",:\\a1 ".to_vec()), 0..40)) {
            members(&text, 0).for_each(drop);
            let _ = splice(b"", &text, 1, b"");
        }
    }

    #[test]
    fn empty_metadata_takes_no_comma() {
        let spliced = splice(b"", br#"{"metadata":{}}"#, 5, b"").unwrap();
        assert_eq!(spliced.text, br#"{"metadata":{"resourceVersion":"5"}}"#);
        assert!(splice(b"", b"k8s\0binary", 5, b"").is_none());
    }
}
