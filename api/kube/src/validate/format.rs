//! The formats of names, labels and other short texts. Each check returns what is wrong, in Kubernetes' words.

/// Longest DNS label, port-independent label value and label name, in bytes.
const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
const SUBDOMAIN_MAX: usize = 253;

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_RULE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// What is wrong with a text; empty if nothing is.
pub type Problems = Vec<String>;

/// A rule's text with examples and the expression that states it.
fn rule(text: &str, expression: &str, examples: &[&str]) -> String {
    let mut message = format!("{text} (e.g. ");
    for (at, example) in examples.iter().enumerate() {
        if at > 0 {
            message.push_str(" or ");
        }
        message.push_str(&format!("'{example}', "));
    }
    message.push_str(&format!("regex used for validation is '{expression}')"));
    message
}

fn max_length(bytes: usize) -> String {
    format!("must be no more than {bytes} bytes")
}

fn max_characters(characters: usize) -> String {
    format!("must be no more than {characters} characters")
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Lower-case letters, digits and dashes, with no dash at either end.
fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if is_lower(*first) && is_lower(*last))
        && bytes.iter().all(|byte| is_lower(*byte) || *byte == b'-')
}

fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

/// RFC 1123 label: `my-name`.
pub fn dns_label(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !is_dns_label(text) {
        if is_dns_subdomain(text) {
            problems.push("must not contain dots".to_owned());
        } else {
            problems.push(rule(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    problems
}

/// RFC 1123 subdomain: `example.com`.
pub fn dns_subdomain(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(max_length(SUBDOMAIN_MAX));
    }
    if !is_dns_subdomain(text) {
        problems.push(rule(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    problems
}

fn is_label_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A label key: `name` or `example.com/name`.
pub fn qualified_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    let key_rule = || rule(LABEL_KEY_RULE, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(dns_subdomain(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                key_rule()
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", max_length(LABEL_MAX)));
    }
    if !is_label_key(name) {
        problems.push(format!("name part {}", key_rule()));
    }
    problems
}

/// A label value, which may be empty.
pub fn label_value(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !text.is_empty() && !is_label_key(text) {
        problems.push(rule(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

fn dot_dot(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        text if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A key of a config map or secret.
pub fn config_key(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(max_characters(SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        problems.push(rule(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    problems.extend(dot_dot(text));
    problems
}

/// The name of an environment variable: any printable ASCII but `=`.
pub fn env_name(text: &str) -> Problems {
    if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || byte == b'=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        ];
    }
    Problems::new()
}

/// The name of a port in a pod (IANA service name).
pub fn port_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > 15 {
        problems.push(max_characters(15));
    }
    if text.is_empty() || !text.bytes().all(|byte| is_lower(byte) || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// The name of an HTTP header.
pub fn http_header(text: &str) -> Problems {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        let text = "a valid HTTP header must consist of alphanumeric characters or '-'";
        return vec![rule(text, "[-A-Za-z0-9]+", &["X-Header-Name"])];
    }
    Problems::new()
}

/// `25%`.
pub fn percent(text: &str) -> Problems {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let text = "a valid percent string must be a numeric string followed by an ending '%'";
        return vec![rule(text, "[0-9]+%", &["1%", "93%"])];
    }
    Problems::new()
}

/// What is wrong with a prefix from which names of that form are to be made: a dash at its end is fine.
pub fn generate_name(text: &str, check: fn(&str) -> Problems) -> Problems {
    match text.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => check(&format!("{stem}a")),
        _ => check(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_good_names_from_bad() {
        let long = "a".repeat(64);
        for (check, good, bad) in [
            (
                dns_label as fn(&str) -> Problems,
                &["a", "a-1", "1a"][..],
                &["", "A", "-a", "a-", "a.b", "a_b", &long][..],
            ),
            (dns_subdomain, &["a", "a.b", "1.2", &long], &["", "a..b", "A.b", "a.", "a_b"]),
            (qualified_name, &["a", "A_b.c", "x.io/Y"], &["", "/a", "a/", "a/b/c", "X.io/a", "-a", &long]),
            (label_value, &["", "a", "A_b.c"], &["-a", "a-", "a b", &long]),
            (config_key, &["a", "A.b-c_d", ".a"], &["", ".", "..", "..a", "a b", "a/b"]),
            (env_name, &["A", "1", "my.env"], &["A=B", "é", "a\n"]),
            (port_name, &["http", "p-1"], &["", "80", "HTTP", "a--b", "-a", "a-", "abcdefghijklmnop"]),
            (percent, &["1%", "100%"], &["", "%", "1", "a%"]),
            (http_header, &["X-A"], &["", "X_A"]),
        ] {
            for text in good {
                assert_eq!(check(text), Problems::new(), "{text}");
            }
            for text in bad {
                assert_ne!(check(text), Problems::new(), "{text}");
            }
        }
        assert_eq!(generate_name("web-", dns_subdomain), Problems::new());
        assert_ne!(generate_name("-", dns_subdomain), Problems::new());
    }

    #[test]
    fn says_it_in_kubernetes_words() {
        assert_eq!(
            dns_subdomain("Web"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            qualified_name("a/"),
            [
                "name part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                 alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
    }
}
