//! Query parameters of requests.

use percent_encoding::percent_decode_str;

use crate::status::{Answer, Cause, Failure};

/// Decoded query parameters; of a repeated one the first counts, except where all are wanted.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=2`. Text that is no UTF-8 is replaced, as Go does.
    pub fn parse(text: &str) -> Query {
        let decode = |part: &str| {
            let spaced = if part.contains('+') { part.replace('+', " ") } else { part.to_string() };
            match percent_decode_str(&spaced).decode_utf8_lossy() {
                std::borrow::Cow::Borrowed(same) if same.len() == spaced.len() => spaced,
                other => other.into_owned(),
            }
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Query(pairs.collect())
    }

    /// The value of a parameter, empty if it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Whether the parameter is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A boolean; the bare name (`?watch`) means true, as in Go's conversion: anything but `0` and `false` does.
    pub fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "0" | "false")
    }

    /// A whole number, `None` if it is absent or empty.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn number(&self, name: &str) -> Answer<Option<i64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Failure::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax ({name})"))
            }),
        }
    }

    /// Whether nothing is to be stored.
    ///
    /// # Errors
    /// 422 for a value other than `All`.
    pub fn dry_run(&self) -> Answer<bool> {
        self.0.iter().filter(|(name, _)| name == "dryRun").try_fold(false, |_, (_, value)| check_dry_run(value))
    }
}

/// Whether a `dryRun` entry is valid: `All`, or nothing.
pub fn check_dry_run(value: &str) -> Answer<bool> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        other => {
            let message = format!("Unsupported value: {other:?}: supported values: \"All\"");
            Err(options_error("CreateOptions", "FieldValueNotSupported", message, "dryRun"))
        }
    }
}

/// 422 for a wrong option.
pub fn options_error(kind: &str, reason: &str, message: impl Into<String>, field: &str) -> Failure {
    let cause = Cause { reason: reason.to_string(), message: message.into(), field: field.to_string() };
    Failure::invalid_kind("meta.k8s.io", kind, "", vec![cause])
}

/// How a read's `resourceVersion` is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// At least as new as the moment of the request.
    Current,
    /// Whatever the cache has.
    Any,
    /// Not older than this revision.
    AtLeast(i64),
    /// Exactly this revision.
    Exact(i64),
}

/// A `resourceVersion` parameter as a number; `None` if it is empty. One beyond what a revision can be is the largest.
///
/// # Errors
/// 400 for anything but a number of at most 64 bits.
pub fn resource_version(text: &str) -> Answer<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits => Ok(Some(i64::try_from(number).unwrap_or(i64::MAX))),
        _ => {
            let why = if digits { "value out of range" } else { "invalid syntax" };
            Err(Failure::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
                 {text:?}: {why}"
            )))
        }
    }
}

impl Freshness {
    /// Reads `resourceVersion` and `resourceVersionMatch` of a list.
    ///
    /// # Errors
    /// 422 for the combinations that Kubernetes forbids.
    pub fn of_list(query: &Query, limited: bool) -> Answer<Freshness> {
        let version = resource_version(query.get("resourceVersion"))?;
        let forbidden = |message: String| {
            let message = format!("Forbidden: {message}");
            Err(options_error("ListOptions", "FieldValueForbidden", message, "resourceVersionMatch"))
        };
        if query.has("sendInitialEvents") {
            let message = "Forbidden: sendInitialEvents is forbidden for list";
            return Err(options_error("ListOptions", "FieldValueForbidden", message, "sendInitialEvents"));
        }
        match (query.get("resourceVersionMatch"), version) {
            ("", None) => Ok(Freshness::Current),
            ("", Some(0)) => Ok(Freshness::Any),
            ("", Some(version)) if limited => Ok(Freshness::Exact(version)),
            ("", Some(version)) => Ok(Freshness::AtLeast(version)),
            (_, None) => forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided".into()),
            ("NotOlderThan", Some(0)) => Ok(Freshness::Any),
            ("NotOlderThan", Some(version)) => Ok(Freshness::AtLeast(version)),
            ("Exact", Some(0)) => {
                forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"".into())
            }
            ("Exact", Some(version)) => Ok(Freshness::Exact(version)),
            (other, _) => {
                let message =
                    format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\"");
                Err(options_error("ListOptions", "FieldValueNotSupported", message, "resourceVersionMatch"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("watch&labelSelector=a%3Db+c&limit=5&dryRun=All&x=false");
        assert!(query.flag("watch") && !query.flag("x") && !query.flag("y"));
        assert_eq!(query.get("labelSelector"), "a=b c");
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert!(query.dry_run().unwrap());
        assert_eq!(Query::parse("dryRun=Some").dry_run().unwrap_err().code(), 422);
        assert_eq!(Query::parse("limit=x").number("limit").unwrap_err().code(), 400);
    }

    #[test]
    fn resource_version_rules() {
        let of = |text: &str| Freshness::of_list(&Query::parse(text), text.contains("limit"));
        assert_eq!(of("").unwrap(), Freshness::Current);
        assert_eq!(of("resourceVersion=0").unwrap(), Freshness::Any);
        assert_eq!(of("resourceVersion=7").unwrap(), Freshness::AtLeast(7));
        assert_eq!(of("resourceVersion=7&limit=2").unwrap(), Freshness::Exact(7));
        assert_eq!(of("resourceVersion=7&resourceVersionMatch=Exact").unwrap(), Freshness::Exact(7));
        assert_eq!(of("resourceVersion=07").unwrap(), Freshness::AtLeast(7));
        assert_eq!(of("resourceVersion=9223372036854775808").unwrap(), Freshness::AtLeast(i64::MAX));
        for (bad, why) in [
            ("soon", "invalid syntax"),
            ("-1", "invalid syntax"),
            ("%2B1", "invalid syntax"),
            ("18446744073709551616", "value out of range"),
        ] {
            let failure = of(&format!("resourceVersion={bad}")).expect_err(bad);
            assert_eq!(failure.code(), 400, "{bad}");
            assert!(failure.message().starts_with("invalid resource version: resourceVersion: Invalid value: \""));
            assert!(failure.message().ends_with(why), "{}", failure.message());
        }
        for bad in [
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=1&resourceVersionMatch=Some",
            "sendInitialEvents=true",
        ] {
            assert_eq!(of(bad).expect_err(bad).code(), 422, "{bad}");
        }
        assert_eq!(
            of("resourceVersionMatch=Exact").unwrap_err().message(),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided"
        );
    }
}
