//! The configuration file: YAML, or JSON, whose keys are the flags' names. Where it is given, flags and environment are
//! ignored, as in etcd.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::flags;
use super::settings::{Settings, Tls};
use super::url::Url;
use super::value::{Kind, Value};

/// What a file says: settings, and keys that nobody knows. etcd passes over those in silence.
#[derive(Debug)]
pub struct Read {
    pub settings: Settings,
    pub unknown: Vec<String>,
}

/// Why a file was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The text for etcd's `failed to verify flags`.
    Invalid(String),
    /// What etcd prints by itself before it ends with status 1.
    Plain(String),
}

/// A node of the file; unlike the parser's own type it takes a key that comes twice, and the last one wins.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Real(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Keys with keys of their own.
const SECTIONS: &[&str] =
    &["client-transport-security", "peer-transport-security", "socket-options", "discovery-config"];

/// Flags that the file has no key for.
const NOT_IN_FILES: &[&str] = &[
    "config-file",
    "version",
    "discovery",
    "discovery-token",
    "discovery-endpoints",
    "discovery-dial-timeout",
    "discovery-request-timeout",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
    "discovery-fallback",
    "discovery-proxy",
    "raft-read-timeout",
    "raft-write-timeout",
    "socket-reuse-port",
    "socket-reuse-address",
    "cert-file",
    "key-file",
    "client-cert-auth",
    "client-cert-file",
    "client-key-file",
    "client-crl-file",
    "client-cert-allowed-hostname",
    "trusted-ca-file",
    "auto-tls",
    "peer-cert-file",
    "peer-key-file",
    "peer-client-cert-auth",
    "peer-client-cert-file",
    "peer-client-key-file",
    "peer-trusted-ca-file",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-auto-tls",
    "peer-crl-file",
    "peer-skip-client-san-verification",
];

/// Reads a file.
///
/// # Errors
/// etcd's text for what is wrong.
pub fn read(path: &Path) -> Result<Read, Refusal> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let text = error.to_string();
        let end = text.find(" (os error").unwrap_or(text.len());
        Refusal::Invalid(format!("open {}: {}", path.display(), text[..end].to_lowercase()))
    })?;
    parse(&text)
}

fn parse(text: &str) -> Result<Read, Refusal> {
    let invalid = |text: String| Refusal::Invalid(text);
    let root = if text.trim().is_empty() {
        Node::Null
    } else {
        serde_yaml_ng::from_str(text)
            .map_err(|error| invalid(format!("error converting YAML to JSON: yaml: {error}")))?
    };
    let pairs = match root {
        Node::Null => Vec::new(),
        Node::Map(pairs) => pairs,
        other => return Err(invalid(mismatch(&other, "value", "embed.configYAML"))),
    };
    let mut read = Read { settings: Settings::default(), unknown: Vec::new() };
    for (key, node) in pairs {
        // Go's JSON decoder finds its fields in any case.
        let name = key.to_ascii_lowercase();
        entry(&mut read, &key, &name, node)?;
    }
    Ok(read)
}

fn entry(read: &mut Read, key: &str, name: &str, node: Node) -> Result<(), Refusal> {
    let special = SECTIONS.iter().find(|known| **known == name);
    let flag = flags::find(name).filter(|flag| !NOT_IN_FILES.contains(&flag.name) && flag.kind != Kind::Ignored);
    match (special, flag) {
        (Some(known), _) => section(read, known, node),
        (None, Some(flag)) => {
            let (kind, group) = match flag.kind {
                Kind::Urls | Kind::Origins | Kind::Features => (Kind::Text, "configYAML.configJSON"),
                Kind::Set if flag.name == "host-whitelist" => (Kind::Text, "configYAML.configJSON"),
                Kind::Set => (Kind::List, "configYAML.Config"),
                Kind::OneOf(_) | Kind::ManyOf(_) => (Kind::Text, "configYAML.Config"),
                kind => (kind, "configYAML.Config"),
            };
            let Some(value) = scalar(&format!("struct field {group}.{}", flag.name), kind, node)? else {
                return Ok(());
            };
            let value = match (flag.kind, value) {
                (Kind::Urls | Kind::Origins | Kind::Features, Value::Text(text)) if text.is_empty() => return Ok(()),
                (Kind::Urls, Value::Text(text)) => Url::parse_list(&text)
                    .map(Value::Urls)
                    .map_err(|why| Refusal::Plain(format!("unexpected error setting up {}: {why}", flag.name)))?,
                (Kind::Origins | Kind::Features, Value::Text(text)) => {
                    flag.kind.parse(&text).map_err(Refusal::Invalid)?
                }
                (Kind::Set, Value::Text(text)) => flag.kind.parse(&text).map_err(Refusal::Invalid)?,
                (_, value) => value,
            };
            read.settings.set(flag, value);
            Ok(())
        }
        (None, None) => {
            read.unknown.push(key.to_owned());
            Ok(())
        }
    }
}

/// A section with keys of its own.
fn section(read: &mut Read, name: &'static str, node: Node) -> Result<(), Refusal> {
    let pairs = match node {
        Node::Null => return Ok(()),
        Node::Map(pairs) => pairs,
        other => {
            let of = if name.ends_with("-security") { "embed.securityConfig" } else { "transport.SocketOpts" };
            return Err(Refusal::Invalid(mismatch(&other, &format!("struct field configYAML.configJSON.{name}"), of)));
        }
    };
    for (key, node) in pairs {
        let field = |group: &str| format!("struct field {group}.{name}.{key}");
        let known = match name {
            "client-transport-security" => secure(&mut read.settings.client_tls, &key, node, &field)?,
            "peer-transport-security" => secure(&mut read.settings.peer_tls, &key, node, &field)?,
            "socket-options" => {
                let known = matches!(key.as_str(), "reuse-port" | "reuse-address");
                let value = if known { scalar(&field("SocketOpts.Config"), Kind::Bool, node)? } else { None };
                if let ("reuse-port", Some(Value::Bool(on))) = (key.as_str(), value) {
                    read.settings.reuse_port = on;
                }
                known
            }
            // Of no effect here, whatever it says.
            "discovery-config" => true,
            _ => false,
        };
        if !known {
            read.unknown.push(format!("{name}.{key}"));
        }
    }
    if name == "discovery-config" {
        read.settings.without_effect.insert("discovery-endpoints");
    }
    Ok(())
}

/// One key of a TLS section; whether it is known.
fn secure(tls: &mut Tls, key: &str, node: Node, field: &dyn Fn(&str) -> String) -> Result<bool, Refusal> {
    let kind = match key {
        "cert-file" | "key-file" | "trusted-ca-file" | "client-cert-file" | "client-key-file" => Kind::Text,
        "client-cert-auth" | "auto-tls" | "skip-client-san-verification" => Kind::Bool,
        "allowed-cn" | "allowed-hostname" => Kind::List,
        _ => return Ok(false),
    };
    match (key, scalar(&field("securityConfig.configJSON"), kind, node)?) {
        ("cert-file", Some(Value::Text(text))) => tls.cert_file = text,
        ("key-file", Some(Value::Text(text))) => tls.key_file = text,
        ("trusted-ca-file", Some(Value::Text(text))) => tls.trusted_ca_file = text,
        ("client-cert-auth", Some(Value::Bool(on))) => tls.client_cert_auth = on,
        ("auto-tls", Some(Value::Bool(on))) => tls.auto = on,
        ("allowed-cn", Some(Value::List(list))) => tls.allowed_cn = list,
        ("allowed-hostname", Some(Value::List(list))) => tls.allowed_hostname = list,
        _ => {}
    }
    Ok(true)
}

/// A value of a kind; nothing for `null`. As etcd reads the file by way of JSON, texts are not taken for numbers, and
/// durations are numbers of nanoseconds.
fn scalar(field: &str, kind: Kind, node: Node) -> Result<Option<Value>, Refusal> {
    let of = match kind {
        Kind::Bool => "bool",
        Kind::Uint => "uint",
        Kind::Uint32 => "uint32",
        Kind::Int => "int64",
        Kind::Duration => "time.Duration",
        Kind::List => "[]string",
        _ => "string",
    };
    let value = match (kind, &node) {
        (_, Node::Null) => return Ok(None),
        (Kind::Bool, Node::Bool(on)) => Some(Value::Bool(*on)),
        (Kind::Uint, Node::Integer(number)) => u64::try_from(*number).ok().map(Value::Number),
        (Kind::Uint32, Node::Integer(number)) => u32::try_from(*number).ok().map(|n| Value::Number(n.into())),
        (Kind::Int, Node::Integer(number)) => i64::try_from(*number).ok().map(Value::Signed),
        (Kind::Duration, Node::Integer(number)) => {
            i64::try_from(*number).ok().map(|nanos| Value::Duration(super::duration::Nanos(nanos)))
        }
        (Kind::Text, Node::Text(text)) => Some(Value::Text(text.clone())),
        // The converter to JSON quotes what is no text where a text is wanted.
        (Kind::Text, Node::Integer(number)) => Some(Value::Text(number.to_string())),
        (Kind::Text, Node::Bool(on)) => Some(Value::Text(on.to_string())),
        (Kind::Text, Node::Real(number)) => Some(Value::Text(number.to_string())),
        (Kind::List, Node::List(items)) => {
            let texts: Option<Vec<_>> = items
                .iter()
                .map(|item| match item {
                    Node::Text(text) => Some(text.clone()),
                    Node::Integer(number) => Some(number.to_string()),
                    _ => None,
                })
                .collect();
            texts.map(Value::List)
        }
        _ => None,
    };
    value.map(Some).ok_or_else(|| Refusal::Invalid(mismatch(&node, field, of)))
}

/// What Go's JSON decoder says of a value that does not fit.
fn mismatch(node: &Node, field: &str, of: &str) -> String {
    let what = match node {
        Node::Null => "null".to_owned(),
        Node::Bool(_) => "bool".to_owned(),
        Node::Integer(number) => format!("number {number}"),
        Node::Real(number) => format!("number {number}"),
        Node::Text(_) => "string".to_owned(),
        Node::List(_) => "array".to_owned(),
        Node::Map(_) => "object".to_owned(),
    };
    format!("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} into Go {field} of type {of}")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E>(self, on: bool) -> Result<Node, E> {
        Ok(Node::Bool(on))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Real(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, node)) = entries.next_entry::<Node, Node>()? {
            let key = match key {
                Node::Text(text) => text,
                Node::Integer(number) => number.to_string(),
                Node::Bool(on) => on.to_string(),
                _ => return Err(serde::de::Error::custom("a key must be a text")),
            };
            pairs.push((key, node));
        }
        Ok(Node::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sets_what_flags_set() {
        let text = "
name: a
heartbeat-interval: 200
listen-client-urls: https://127.0.0.1:2379,https://[::1]:2379
watch-progress-notify-interval: 5000000000
log-outputs: [stderr, /tmp/x.log]
strict-reconfig-check: false
client-transport-security:
  cert-file: /c
  key-file: /k
  client-cert-auth: true
  trusted-ca-file: /ca
  auto-tls: false
peer-transport-security: {allowed-cn: [a, b]}
socket-options: {reuse-port: true}
feature-gates: PriorityRequest=true
";
        let Read { settings, unknown } = parse(text).unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        assert_eq!((settings.name.as_str(), settings.heartbeat_ms), ("a", 200));
        assert_eq!(settings.listen_client_urls.len(), 2);
        assert_eq!(settings.progress_notify, crate::store::duration::Nanos(5_000_000_000));
        assert_eq!(settings.log_outputs, ["stderr", "/tmp/x.log"]);
        let tls = &settings.client_tls;
        assert_eq!((tls.cert_file.as_str(), tls.key_file.as_str(), tls.trusted_ca_file.as_str()), ("/c", "/k", "/ca"));
        assert!(tls.client_cert_auth && settings.reuse_port && settings.features.enabled("PriorityRequest"));
        assert_eq!(settings.peer_tls.allowed_cn, ["a", "b"]);
        assert!(settings.is_set("name") && !settings.strict_reconfig);
    }

    #[test]
    fn json_is_yaml_and_nothing_is_the_defaults() {
        assert_eq!(parse("{\"name\": \"a\", \"MAX-TXN-OPS\": 7}").unwrap().settings.max_txn_ops, 7);
        assert_eq!(parse("").unwrap().settings, Settings::default());
        assert_eq!(parse("name: a\nname: b\n").unwrap().settings.name, "b");
        assert_eq!(
            parse("foo: 1\nclient-transport-security: {bar: 2}\n").unwrap().unknown,
            ["foo", "client-transport-security.bar"]
        );
    }

    #[test]
    fn refuses_in_etcds_words() {
        let decoding = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
        for (text, error) in [
            ("name: [a]\n", format!("{decoding} array into Go struct field configYAML.Config.name of type string")),
            (
                "heartbeat-interval: \"x\"\n",
                format!("{decoding} string into Go struct field configYAML.Config.heartbeat-interval of type uint"),
            ),
            (
                "max-txn-ops: 1.5\n",
                format!("{decoding} number 1.5 into Go struct field configYAML.Config.max-txn-ops of type uint"),
            ),
            ("feature-gates: Foo=true\n", "unrecognized feature gate: Foo".to_owned()),
        ] {
            assert_eq!(parse(text).unwrap_err(), Refusal::Invalid(error));
        }
        let plain =
            "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://x";
        assert_eq!(parse("listen-client-urls: ftp://x\n").unwrap_err(), Refusal::Plain(plain.into()));
        let Refusal::Invalid(error) = parse("a: b: c\n").unwrap_err() else { panic!("invalid") };
        assert!(error.starts_with("error converting YAML to JSON: yaml: "), "{error}");
        let missing = read(Path::new("/nonexistent/x")).unwrap_err();
        assert_eq!(missing, Refusal::Invalid("open /nonexistent/x: no such file or directory".into()));
    }
}
