//! What a token is, from etcd's `auth-token` text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::jwt::Jwt;
use super::options::TTL;
use crate::Error;

/// What tokens are. Clones share keys.
#[derive(Clone, Debug, Default)]
pub enum TokenKind {
    /// Random text that the store remembers for a while.
    #[default]
    Simple,
    /// Signed text that the store need not remember.
    Jwt(Arc<Jwt>),
    /// There are none: only certificates make a user (etcd's empty `auth-token`).
    None,
}

impl TokenKind {
    /// Reads etcd's `auth-token`: `simple`, or
    /// `jwt,sign-method=M[,pub-key=FILE][,priv-key=FILE][,ttl=DURATION]` with a method of RS256, RS384, RS512, PS256,
    /// PS384, PS512, ES256, ES384, EdDSA, HS256, HS384, HS512. Files are PEM; for HS* the private key is the file as it
    /// is. With a public key alone tokens are checked and none are made. The ttl is Go's form, 5m by default.
    ///
    /// # Errors
    /// [`Error::Auth`] that says what is wrong, with the file where it is one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        for part in parts {
            let pair = part.split_once('=').filter(|(_, value)| !value.contains('='));
            let (name, value) = pair.ok_or_else(|| wrong(format!("{part:?} is no option")))?;
            if options.insert(name, value).is_some() {
                return Err(wrong(format!("{name} is given twice")));
            }
        }
        match kind {
            "simple" => Ok(TokenKind::Simple),
            "" => Ok(TokenKind::None),
            "jwt" => {
                let ttl = match options.remove("ttl").filter(|ttl| !ttl.is_empty()) {
                    Some(ttl) => duration(ttl).ok_or_else(|| wrong(format!("ttl {ttl:?} is no duration")))?,
                    None => TTL,
                };
                let read = |file: Option<&str>| match file.filter(|file| !file.is_empty()) {
                    None => Ok(None),
                    Some(file) => {
                        std::fs::read(file).map(Some).map_err(|error| wrong(format!("cannot read {file}: {error}")))
                    }
                };
                let public = read(options.remove("pub-key"))?;
                let private = read(options.remove("priv-key"))?;
                let method = options.remove("sign-method").unwrap_or_default();
                for unknown in options.keys() {
                    tracing::warn!("auth token option {unknown} is not known, and ignored");
                }
                let jwt = Jwt::new(method, public.as_deref(), private.as_deref(), ttl).map_err(wrong)?;
                Ok(TokenKind::Jwt(Arc::new(jwt)))
            }
            other => Err(wrong(format!("{other:?} is no kind of token"))),
        }
    }
}

fn wrong(what: String) -> Error {
    Error::Auth(format!("auth: invalid auth options: {what}"))
}

/// A duration as Go writes them: numbers with units, such as `1h30m` or `1.5s`. Negative ones make no sense here.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[unit.len()..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("5m", 300_000), ("1h30m", 5_400_000), ("1.5s", 1_500), ("20ms", 20), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "m", "5 m", "-5m", "1e999h", "5x"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn kinds() {
        assert!(matches!(TokenKind::parse("simple"), Ok(TokenKind::Simple)));
        assert!(matches!(TokenKind::parse("simple,a=b"), Ok(TokenKind::Simple)));
        assert!(matches!(TokenKind::parse(""), Ok(TokenKind::None)));
        for (text, why) in [
            ("other", "\"other\" is no kind of token"),
            ("simple,x", "\"x\" is no option"),
            ("jwt,a=1,a=2", "a is given twice"),
            ("jwt,ttl=5", "ttl \"5\" is no duration"),
            ("jwt,pub-key=/nowhere/key.pem", "cannot read /nowhere/key.pem: "),
            ("jwt,sign-method=none", "sign-method \"none\" is not one of "),
            ("jwt,sign-method=HS256", "missing key data"),
        ] {
            let error = TokenKind::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
