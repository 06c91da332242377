//! Label and field selectors: their text form, and matching against encoded objects.

use std::borrow::Cow;

use crate::cache::Entry;
use crate::registry::{Field, Resource};
use crate::scan;
use crate::status::{Answer, Failure};

/// Requirements at most in one selector: far beyond what is useful, so that matching stays cheap.
const MAX_REQUIREMENTS: usize = 256;

/// One label requirement.
#[derive(Clone, Debug, PartialEq)]
enum Label {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// What a field requirement looks at.
#[derive(Clone, Debug, PartialEq)]
enum Target {
    Name,
    Namespace,
    /// Position in [`Resource::fields`].
    Field(usize),
}

/// A parsed pair of selectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    labels: Vec<Label>,
    /// Target, value, whether it must be equal.
    fields: Vec<(Target, String, bool)>,
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for bad syntax, a bad label, or a field that this resource cannot be selected by.
    pub fn parse(row: &Resource, labels: &str, fields: &str) -> Answer<Selector> {
        let labels = Parser { text: labels, at: 0 }
            .requirements()
            .map_err(|why| Failure::bad_request(format!("unable to parse requirement: {why}")))?;
        let mut parsed = Vec::new();
        for term in split_terms(fields) {
            if term.is_empty() {
                continue;
            }
            let (name, value, equal) = field_term(&term).ok_or_else(|| {
                Failure::bad_request(format!("invalid selector: '{fields}'; can't understand '{term}'"))
            })?;
            let target = match name {
                "metadata.name" => Target::Name,
                "metadata.namespace" if row.namespaced => Target::Namespace,
                _ => Target::Field(field_position(row, name).ok_or_else(|| {
                    let known = if row.fields.is_empty() {
                        "not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    } else {
                        ""
                    };
                    if known.is_empty() {
                        Failure::bad_request(format!("field label not supported: {name}"))
                    } else {
                        Failure::bad_request(format!("\"{name}\" is {known}"))
                    }
                })?),
            };
            parsed.push((target, value, equal));
        }
        if parsed.len() > MAX_REQUIREMENTS || labels.len() > MAX_REQUIREMENTS {
            return Err(Failure::bad_request(format!("a selector may have at most {MAX_REQUIREMENTS} requirements")));
        }
        Ok(Selector { labels, fields: parsed })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name asked for, if `metadata.name=x` is among the requirements.
    pub fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|(target, _, equal)| *equal && *target == Target::Name)
            .map(|(_, value, _)| value.as_str())
    }

    /// The one namespace asked for, if `metadata.namespace=x` is among the requirements.
    pub fn namespace(&self) -> Option<&str> {
        let found = self.fields.iter().find(|(target, _, equal)| *equal && *target == Target::Namespace);
        found.map(|(_, value, _)| value.as_str())
    }

    /// An indexed field with the one value asked for, not empty.
    pub fn indexed(&self, row: &Resource) -> Option<(usize, &str)> {
        self.fields.iter().find_map(|(target, value, equal)| match target {
            Target::Field(number) if *equal && !value.is_empty() && row.fields[*number].indexed => {
                Some((*number, value.as_str()))
            }
            _ => None,
        })
    }

    /// Narrows the selector to one object name (a watch of a single object).
    pub fn and_name(mut self, name: &str) -> Selector {
        self.fields.push((Target::Name, name.to_string(), true));
        self
    }

    /// Whether an object satisfies every requirement.
    pub fn matches(&self, row: &Resource, entry: &Entry) -> bool {
        self.fields.iter().all(|(target, wanted, equal)| {
            let is = match target {
                Target::Name => entry.name() == wanted,
                Target::Namespace => entry.namespace() == wanted,
                Target::Field(number) => field_value(&row.fields[*number], entry.field(*number)) == *wanted,
            };
            is == *equal
        }) && self.labels.iter().all(|label| label.matches(entry.labels()))
    }
}

fn field_position(row: &Resource, name: &str) -> Option<usize> {
    // The old names that kube-apiserver still understands.
    let name = if row.plural == "pods" && name == "spec.host" { "spec.nodeName" } else { name };
    row.fields.iter().position(|field| field.name == name)
}

/// A field's value as a selector compares it; `raw` is JSON text, empty where the field is absent.
pub fn field_value<'a>(field: &Field, raw: &'a [u8]) -> Cow<'a, str> {
    match raw {
        b"" | b"null" | b"\"\"" => Cow::Borrowed(field.default),
        raw => scan::scalar(raw).map(Cow::Borrowed).unwrap_or_else(|| {
            Cow::Owned(
                serde_json::from_slice::<String>(raw).unwrap_or_else(|_| String::from_utf8_lossy(raw).into_owned()),
            )
        }),
    }
}

impl Label {
    /// `labels` is the JSON text of the label object, empty where there is none.
    fn matches(&self, labels: &[u8]) -> bool {
        let value = |key: &str| {
            let range = scan::member(labels, 0, key)?;
            let raw = &labels[range];
            match scan::scalar(raw) {
                Some(text) => Some(Cow::Borrowed(text)),
                None => serde_json::from_slice::<String>(raw).ok().map(Cow::Owned),
            }
        };
        let number = |key: &str| value(key).and_then(|text| text.parse::<i64>().ok());
        match self {
            Label::In(key, values) => value(key).is_some_and(|value| values.iter().any(|one| *one == value)),
            Label::NotIn(key, values) => value(key).is_none_or(|value| values.iter().all(|one| *one != value)),
            Label::Exists(key) => value(key).is_some(),
            Label::Absent(key) => value(key).is_none(),
            Label::Greater(key, bound) => number(key).is_some_and(|number| number > *bound),
            Label::Less(key, bound) => number(key).is_some_and(|number| number < *bound),
        }
    }
}

/// Cuts a field selector at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for letter in text.chars() {
        if letter == ',' && !escaped {
            terms.push(String::new());
        } else if let Some(term) = terms.last_mut() {
            term.push(letter);
        }
        escaped = letter == '\\' && !escaped;
    }
    terms
}

fn field_term(term: &str) -> Option<(&str, String, bool)> {
    let at = term.find(['=', '!'])?;
    let (name, rest) = term.split_at(at);
    let (value, equal) = if let Some(value) = rest.strip_prefix("!=") {
        (value, false)
    } else if let Some(value) = rest.strip_prefix("==") {
        (value, true)
    } else {
        (rest.strip_prefix('=')?, true)
    };
    let mut plain = String::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next()? } else { letter });
    }
    Some((name, plain, equal))
}

/// The grammar of label selectors (`k8s.io/apimachinery/pkg/labels`).
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn requirements(mut self) -> Result<Vec<Label>, String> {
        let mut found = Vec::new();
        if self.peek().is_empty() {
            return Ok(found);
        }
        loop {
            found.push(self.requirement()?);
            match self.token() {
                "" => return Ok(found),
                "," => {
                    let next = self.peek();
                    if next.is_empty() || next == "," {
                        return Err(format!("found '{next}', expected: identifier after ','"));
                    }
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Label, String> {
        let mut key = self.token();
        let absent = key == "!";
        if absent {
            key = self.token();
        }
        check_key(key)?;
        if absent {
            return Ok(Label::Absent(key.to_string()));
        }
        let key = key.to_string();
        let peeked = self.peek();
        if peeked.is_empty() || peeked == "," {
            return Ok(Label::Exists(key));
        }
        match self.token() {
            "in" => Ok(Label::In(key, self.values()?)),
            "notin" => Ok(Label::NotIn(key, self.values()?)),
            "=" | "==" => Ok(Label::In(key, vec![self.value()?])),
            "!=" => Ok(Label::NotIn(key, vec![self.value()?])),
            operator @ (">" | "<") => {
                let text = self.value()?;
                let bound = text.parse().map_err(|_| {
                    format!("values[0][{key}]: Invalid value: \"{text}\": for 'Gt', 'Lt' operators, the value must be an integer")
                })?;
                Ok(if operator == ">" { Label::Greater(key, bound) } else { Label::Less(key, bound) })
            }
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// One value, which may be empty.
    fn value(&mut self) -> Result<String, String> {
        let next = self.peek();
        if next.is_empty() || next == "," {
            return Ok(String::new());
        }
        let value = self.token();
        check_value(value)?;
        Ok(value.to_string())
    }

    /// `(a, b)`.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.token();
        if open != "(" {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                ")" | "," => values.push(String::new()),
                _ => {
                    let value = self.token();
                    check_value(value)?;
                    values.push(value.to_string());
                }
            }
            match self.token() {
                ")" => return Ok(values),
                "," if values.len() < MAX_REQUIREMENTS => {}
                other => return Err(format!("found '{other}', expected: ',', or ')'")),
            }
        }
    }

    fn peek(&self) -> &'a str {
        Parser { text: self.text, at: self.at }.token()
    }

    fn token(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let start = self.at + rest.len() - trimmed.len();
        let length = match trimmed.as_bytes() {
            [b'=', b'=', ..] | [b'!', b'=', ..] => 2,
            [b'(' | b')' | b',' | b'=' | b'!' | b'>' | b'<', ..] => 1,
            _ => trimmed.find(['(', ')', ',', '=', '!', '>', '<', ' ', '\t', '\r', '\n']).unwrap_or(trimmed.len()),
        };
        self.at = start + length;
        &self.text[start..self.at]
    }
}

fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_fine = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
    });
    if prefix_fine && is_name(name) {
        return Ok(());
    }
    Err(format!(
        "<nil>: Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.', and must \
         start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    ))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "values[0]: Invalid value: \"{value}\": a valid label must be an empty string or consist of alphanumeric \
         characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn pod(text: &str) -> Entry {
        let row = registry::core("pods").1;
        let object = kelson_wire::store::Object {
            key: "/registry/pods/default/web-0".into(),
            value: text.to_string().into(),
            mod_revision: 3,
            create_revision: 3,
            lease: 0,
        };
        Entry::new(row, &object).unwrap()
    }

    fn matches(labels: &str, fields: &str, text: &str) -> bool {
        let row = registry::core("pods").1;
        Selector::parse(row, labels, fields).unwrap().matches(row, &pod(text))
    }

    #[test]
    fn label_selectors_follow_the_grammar() {
        let web =
            r#"{"kind":"Pod","metadata":{"labels":{"app":"web","example.com/tier":"2","empty":""},"name":"web-0"}}"#;
        for yes in [
            "",
            "app",
            "app=web",
            "app == web",
            "app!=db",
            "app in (db, web)",
            "app notin (db),example.com/tier",
            "!zone",
            "zone!=a",
            "zone notin (a)",
            "example.com/tier>1",
            "empty=",
            "empty in ()",
        ] {
            assert!(matches(yes, "", web), "{yes}");
        }
        for no in [
            "zone",
            "app=db",
            "app!=web",
            "!app",
            "app in (db)",
            "app notin (web)",
            "example.com/tier<2",
            "app=web,zone",
        ] {
            assert!(!matches(no, "", web), "{no}");
        }
        let row = registry::core("pods").1;
        for bad in ["app=", "app"].map(|_| "a=,").into_iter().chain([
            "=web",
            "app in web",
            "app in (a",
            ",",
            "a b",
            "-x=1",
            "app=we b",
            "x>y",
            "!a=b",
            "app=-",
        ]) {
            let refused = Selector::parse(row, bad, "");
            assert_eq!(refused.expect_err(bad).code(), 400, "{bad}");
        }
    }

    #[test]
    fn field_selectors_know_defaults_and_negation() {
        let text = r#"{"metadata":{"name":"web-0"},"spec":{"nodeName":"n1","hostNetwork":true},"status":{"phase":"Run\u006eing"}}"#;
        assert!(matches("", "spec.nodeName=n1,status.phase==Running,metadata.namespace=default", text));
        assert!(matches("", "spec.nodeName!=,metadata.name=web-0,spec.hostNetwork=true", text));
        assert!(!matches("", "spec.nodeName=", text));
        assert!(!matches("", "status.phase!=Running", text));
        assert!(matches("", "spec.hostNetwork=false,spec.nodeName=", r#"{"metadata":{}}"#));
        let row = registry::core("pods").1;
        let unknown = Selector::parse(row, "", "spec.foo=1").unwrap_err();
        assert_eq!(unknown.message(), "field label not supported: spec.foo");
        assert_eq!(Selector::parse(row, "", "spec.foo").unwrap_err().code(), 400);
    }
}
