//! The URLs of etcd's flags: scheme, host and port, or the path of a socket.

use std::net::IpAddr;

/// One URL. Ordered and shown by its text, as etcd does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    /// `http`, `https`, `unix` or `unixs`.
    pub scheme: String,
    /// `host:port`; of a socket's URL what lies between `//` and the next slash.
    pub host: String,
    /// Of a socket's URL.
    pub path: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// Reads one URL.
    ///
    /// # Errors
    /// etcd's text for what is wrong.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let bad_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        if text.chars().any(|c| c.is_ascii_control()) {
            return Err(format!("parse {text:?}: net/url: invalid control character in URL"));
        }
        let (scheme, rest) = split_scheme(text)?;
        let scheme = scheme.to_ascii_lowercase();
        let Some(after) = rest.strip_prefix("//") else {
            if matches!(scheme.as_str(), "unix" | "unixs") {
                let path = if rest.starts_with('/') { rest } else { "" };
                return Ok(Url {
                    text: format!("{scheme}:{rest}"),
                    scheme,
                    host: String::new(),
                    path: path.to_owned(),
                });
            }
            if matches!(scheme.as_str(), "http" | "https") {
                return Err(format!("URL address does not have the form \"host:port\": {text}"));
            }
            return Err(bad_scheme());
        };
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        let path = &tail[..tail.find(['?', '#']).unwrap_or(tail.len())];
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if let Some(port) = port_of(host).filter(|port| !port.bytes().all(|digit| digit.is_ascii_digit())) {
            return Err(format!("parse {text:?}: invalid port {:?} after host", format!(":{port}")));
        }
        match scheme.as_str() {
            "unix" | "unixs" => {}
            "http" | "https" => {
                if split_host_port(host).is_err() {
                    return Err(format!("URL address does not have the form \"host:port\": {text}"));
                }
                if !path.is_empty() {
                    return Err(format!("URL must not contain a path: {text}"));
                }
            }
            _ => return Err(bad_scheme()),
        }
        Ok(Url { text: format!("{scheme}:{rest}"), host: host.to_owned(), path: path.to_owned(), scheme })
    }

    /// Reads several, separated by commas: sorted, each once.
    ///
    /// # Errors
    /// That of the first one that is wrong.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        let mut all: Vec<Url> = text.split(',').map(Url::parse).collect::<Result<_, _>>()?;
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Whether it names a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.scheme == "unix" || self.scheme == "unixs"
    }

    /// Whether it asks for TLS.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https" || self.scheme == "unixs"
    }

    /// What etcd binds: `host:port`, or the socket's path.
    pub fn address(&self) -> String {
        if self.is_unix() { format!("{}{}", self.host, self.path) } else { self.host.clone() }
    }

    /// Host without brackets, and port.
    ///
    /// # Errors
    /// Go's text where there is no port.
    pub fn host_port(&self) -> Result<(&str, &str), String> {
        split_host_port(&self.host)
    }

    /// Refuses what cannot be bound: a name other than `localhost` (etcd's `checkBindURLs`).
    ///
    /// # Errors
    /// etcd's text.
    pub fn check_bind(&self) -> Result<(), String> {
        if self.is_unix() {
            return Ok(());
        }
        let (host, _) = self.host_port()?;
        if host == "localhost" || without_zone(host).parse::<IpAddr>().is_ok() {
            Ok(())
        } else {
            Err(format!("expected IP in URL for binding ({self})"))
        }
    }

    /// Refuses what nobody could call: an empty host (etcd's `checkHostURLs`).
    ///
    /// # Errors
    /// etcd's text.
    pub fn check_host(&self) -> Result<(), String> {
        if self.is_unix() {
            return Ok(());
        }
        let (host, _) = self.host_port()?;
        if host.is_empty() { Err(format!("unexpected empty host ({self})")) } else { Ok(()) }
    }
}

fn without_zone(host: &str) -> &str {
    host.split_once('%').map_or(host, |(address, _)| address)
}

/// Go's rules for where a scheme ends.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err(format!("parse {text:?}: missing protocol scheme")),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    let first = text.split('/').next().unwrap_or_default();
    if first.contains(':') {
        return Err(format!("parse {text:?}: first path segment in URL cannot contain colon"));
    }
    Ok(("", text))
}

/// What follows the last colon outside of brackets.
fn port_of(host: &str) -> Option<&str> {
    let from = host.rfind(']').map_or(0, |at| at + 1);
    host[from..].rsplit_once(':').map(|(_, port)| port)
}

/// Go's `net.SplitHostPort`.
fn split_host_port(host: &str) -> Result<(&str, &str), String> {
    let missing = || format!("address {host}: missing port in address");
    if let Some(rest) = host.strip_prefix('[') {
        let (inner, after) = rest.split_once(']').ok_or_else(|| format!("address {host}: missing ']' in address"))?;
        return after.strip_prefix(':').map(|port| (inner, port)).ok_or_else(missing);
    }
    match host.split_once(':') {
        None => Err(missing()),
        Some((_, port)) if port.contains(':') => Err(format!("address {host}: too many colons in address")),
        Some(split) => Ok(split),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_etcd_reads() {
        let url = Url::parse(" http://127.0.0.1:2379").unwrap();
        assert_eq!((url.scheme.as_str(), url.address().as_str()), ("http", "127.0.0.1:2379"));
        assert_eq!(Url::parse("https://[::1]:2379").unwrap().host_port(), Ok(("::1", "2379")));
        assert_eq!(Url::parse("unix:///run/etcd.sock").unwrap().address(), "/run/etcd.sock");
        assert_eq!(Url::parse("unix:/run/etcd.sock").unwrap().address(), "/run/etcd.sock");
        assert_eq!(Url::parse("unixs://localhost:17").unwrap().address(), "localhost:17");
        let texts: Vec<_> = Url::parse_list("http://b:1,http://a:1,http://b:1").unwrap();
        assert_eq!(texts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://a:1", "http://b:1"]);
    }

    #[test]
    fn refuses_in_etcds_words() {
        for (text, error) in [
            ("ftp://x:1", "URL scheme must be http, https, unix, or unixs: ftp://x:1"),
            ("localhost:1", "URL scheme must be http, https, unix, or unixs: localhost:1"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("127.0.0.1:1", "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon"),
            ("http://127.0.0.1", "URL address does not have the form \"host:port\": http://127.0.0.1"),
            ("http://127.0.0.1:1/x", "URL must not contain a path: http://127.0.0.1:1/x"),
            ("http://127.0.0.1:abc", "parse \"http://127.0.0.1:abc\": invalid port \":abc\" after host"),
        ] {
            assert_eq!(Url::parse(text), Err(error.to_owned()));
        }
        let named = Url::parse("http://example.com:1").unwrap();
        assert_eq!(named.check_bind(), Err("expected IP in URL for binding (http://example.com:1)".to_owned()));
        let empty = Url::parse("http://:1").unwrap();
        assert_eq!(empty.check_host(), Err("unexpected empty host (http://:1)".to_owned()));
        assert!(empty.check_bind().is_err());
        Url::parse("http://localhost:1").unwrap().check_bind().unwrap();
    }
}
