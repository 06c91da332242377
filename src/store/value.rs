//! Values of flags, by kind, read as Go's `flag` package and etcd's own kinds read them.

use super::duration::Nanos;
use super::features::Features;
use super::url::Url;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Needs no value: `--flag` is `--flag=true`.
    Bool,
    /// An unsigned number of 64 bits, in any of Go's notations.
    Uint,
    /// An unsigned number of 32 bits.
    Uint32,
    /// A number of 64 bits.
    Int,
    Duration,
    Text,
    /// URLs separated by commas; the empty text changes nothing.
    Urls,
    /// The same, or `*`.
    Origins,
    /// Texts separated by commas, in order.
    List,
    /// Texts separated by commas, sorted, each once.
    Set,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Some of these, separated by commas.
    ManyOf(&'static [&'static str]),
    /// Feature gates.
    Features,
    /// A flag of the past: taken with or without a value, and of no effect.
    Ignored,
}

/// A value as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Number(u64),
    Signed(i64),
    Duration(Nanos),
    Text(String),
    Urls(Vec<Url>),
    List(Vec<String>),
    Features(Features),
    /// Leaves the default as it is.
    Unchanged,
}

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Why a number could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Syntax,
    Range,
}

/// Go's `strconv.ParseUint` with base 0: `0x`, `0b`, `0o`, a leading zero for octal, and `_` between digits.
fn parse_uint(text: &str) -> Result<u64, Number> {
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text),
    };
    // An underscore stands between digits, or between a prefix and its digits.
    let prefixed = radix != 10;
    let misplaced = digits.ends_with('_') || digits.contains("__") || digits.starts_with('_') && !prefixed;
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if misplaced || plain.is_empty() || !plain.chars().all(|c| c.is_digit(radix)) {
        return Err(Number::Syntax);
    }
    u64::from_str_radix(&plain, radix).map_err(|_| Number::Range)
}

fn parse_int(text: &str) -> Result<i64, Number> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| Number::Range)
}

/// The texts of Go's `flag` package.
fn plainly(wrong: Number) -> String {
    match wrong {
        Number::Syntax => "parse error",
        Number::Range => "value out of range",
    }
    .to_owned()
}

impl Kind {
    /// Whether the flag stands without a value.
    pub fn is_switch(self) -> bool {
        matches!(self, Kind::Bool | Kind::Ignored)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// The text that etcd puts behind `invalid value "…" for flag -…:`.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let list = || text.split(',').map(str::to_owned).collect::<Vec<_>>();
        match self {
            Kind::Bool => parse_bool(text).map(Value::Bool).ok_or_else(|| "parse error".to_owned()),
            Kind::Uint => parse_uint(text).map(Value::Number).map_err(plainly),
            Kind::Int => parse_int(text).map(Value::Signed).map_err(plainly),
            Kind::Uint32 => {
                let number = parse_uint(text).and_then(|n| u32::try_from(n).map_err(|_| Number::Range));
                number.map(|n| Value::Number(n.into())).map_err(|wrong| {
                    let what = if wrong == Number::Syntax { "invalid syntax" } else { "value out of range" };
                    format!("strconv.ParseUint: parsing {text:?}: {what}")
                })
            }
            Kind::Duration => Nanos::parse(text).map(Value::Duration).map_err(|_| "parse error".to_owned()),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Urls if text.is_empty() => Ok(Value::Unchanged),
            Kind::Urls => Url::parse_list(text).map(Value::Urls),
            Kind::Origins if text == "*" => Ok(Value::List(vec!["*".to_owned()])),
            Kind::Origins => {
                let origins = Url::parse_list(text)?;
                Ok(Value::List(origins.iter().map(ToString::to_string).collect()))
            }
            Kind::List => Ok(Value::List(list())),
            Kind::Set => {
                let mut set = list();
                set.sort();
                set.dedup();
                Ok(Value::List(set))
            }
            Kind::OneOf(known) if known.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::OneOf(_) => Err("invalid value".to_owned()),
            Kind::ManyOf(known) => match list().into_iter().find(|one| !known.contains(&one.as_str())) {
                Some(unknown) => Err(format!("invalid value {unknown:?}")),
                None => Ok(Value::List(list())),
            },
            Kind::Features => Features::parse(text).map(Value::Features),
            Kind::Ignored => Ok(Value::Unchanged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        for (text, number) in [("0", 0), ("10", 10), ("0x10", 16), ("010", 8), ("1_000", 1000), ("0b11", 3)] {
            assert_eq!(Kind::Uint.parse(text), Ok(Value::Number(number)), "{text}");
        }
        for text in ["", "-1", "abc", "1.5", "1__0", "_1", "1_", "08"] {
            assert_eq!(Kind::Uint.parse(text), Err("parse error".into()), "{text}");
        }
        assert_eq!(Kind::Uint.parse("99999999999999999999"), Err("value out of range".into()));
        assert_eq!(Kind::Int.parse("-5"), Ok(Value::Signed(-5)));
        assert_eq!(Kind::Int.parse("-9223372036854775808"), Ok(Value::Signed(i64::MIN)));
        let wide = "strconv.ParseUint: parsing \"99999999999\": value out of range";
        assert_eq!(Kind::Uint32.parse("99999999999"), Err(wide.into()));
    }

    #[test]
    fn lists_and_choices_are_etcds() {
        assert_eq!(Kind::Urls.parse(""), Ok(Value::Unchanged));
        assert_eq!(Kind::Set.parse("b,a,b"), Ok(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(Kind::List.parse("b,a"), Ok(Value::List(vec!["b".into(), "a".into()])));
        assert_eq!(Kind::OneOf(&["new"]).parse("old"), Err("invalid value".into()));
        assert_eq!(Kind::ManyOf(&["gone"]).parse("x"), Err("invalid value \"x\"".into()));
        assert_eq!(Kind::Origins.parse("*"), Ok(Value::List(vec!["*".into()])));
    }
}
