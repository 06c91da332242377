//! Flags as Go's `flag` package reads them: `-name value`, `--name=value`, `--switch`, `--switch=false`.

use super::flags::{self, Flag};
use super::value::Value;

/// Flags and their values, in the order they were given; a later one of the same name wins.
pub type Given = Vec<(&'static Flag, Value)>;

/// Why a command line was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Help was asked for.
    Help,
    /// A mistake in the flags; etcd ends with status 2 and its usage.
    Usage(String),
    /// What is no flag; etcd ends with status 1.
    Invalid(String),
}

/// Reads a command line without the program's name.
pub fn parse(arguments: &[String]) -> Result<Given, Refusal> {
    let mut given = Given::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(bare) = argument.strip_prefix('-').filter(|bare| !bare.is_empty()) else {
            return Err(Refusal::Invalid(format!("{argument:?} is not a valid flag")));
        };
        let bare = bare.strip_prefix('-').unwrap_or(bare);
        if bare.is_empty() {
            // "--" ends the flags, and etcd takes nothing else.
            return match rest.next() {
                None => Ok(given),
                Some(other) => Err(Refusal::Invalid(format!("{other:?} is not a valid flag"))),
            };
        }
        if bare.starts_with('-') || bare.starts_with('=') {
            return Err(Refusal::Usage(format!("bad flag syntax: {argument}")));
        }
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (bare, None),
        };
        let Some(flag) = flags::find(name) else {
            let help = name == "help" || name == "h";
            let unknown = || Refusal::Usage(format!("flag provided but not defined: -{name}"));
            return Err(if help { Refusal::Help } else { unknown() });
        };
        let read = |text: &str| flag.kind.parse(text);
        let value = if flag.kind.is_switch() {
            let text = value.unwrap_or("true");
            read(text).map_err(|why| Refusal::Usage(format!("invalid boolean value {text:?} for -{name}: {why}")))?
        } else {
            let Some(text) = value.or_else(|| rest.next().map(String::as_str)) else {
                return Err(Refusal::Usage(format!("flag needs an argument: -{name}")));
            };
            read(text).map_err(|why| Refusal::Usage(format!("invalid value {text:?} for flag -{name}: {why}")))?
        };
        given.push((flag, value));
    }
    Ok(given)
}

/// The arguments with the values of secret flags taken out, for the log.
pub fn without_secrets(arguments: &[String]) -> Vec<String> {
    let mut shown = Vec::with_capacity(arguments.len());
    let mut secret = false;
    for argument in arguments {
        let bare = argument.trim_start_matches('-');
        let (name, value) = bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value)));
        let hides = argument.starts_with('-') && flags::is_secret(name);
        shown.push(match (secret, hides, value) {
            (true, ..) => "***".to_owned(),
            (false, true, Some(_)) => format!("--{name}=***"),
            _ => argument.clone(),
        });
        secret = !secret && hides && value.is_none();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<(&'static str, Value)>, Refusal> {
        let arguments: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments).map(|given| given.into_iter().map(|(flag, value)| (flag.name, value)).collect())
    }

    #[test]
    fn reads_gos_notations() {
        let text = |text: &str| Value::Text(text.into());
        let line = "-name a --name=b=c --client-cert-auth --auto-tls=false --force 3x";
        let refused = Err(Refusal::Invalid("\"3x\" is not a valid flag".into()));
        assert_eq!(read(line), refused);
        assert_eq!(
            read("-name a --name=b=c --client-cert-auth --auto-tls=F --vv --heartbeat-interval 0x10 --"),
            Ok(vec![
                ("name", text("a")),
                ("name", text("b=c")),
                ("client-cert-auth", Value::Bool(true)),
                ("auto-tls", Value::Bool(false)),
                ("vv", Value::Unchanged),
                ("heartbeat-interval", Value::Number(16)),
            ])
        );
    }

    #[test]
    fn refuses_in_gos_words() {
        for (line, refusal) in [
            ("--nonsense", "flag provided but not defined: -nonsense"),
            ("--name", "flag needs an argument: -name"),
            ("---x", "bad flag syntax: ---x"),
            ("--=x", "bad flag syntax: --=x"),
            ("--client-cert-auth=maybe", "invalid boolean value \"maybe\" for -client-cert-auth: parse error"),
            ("--heartbeat-interval abc", "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
        ] {
            assert_eq!(read(line), Err(Refusal::Usage(refusal.into())), "{line}");
        }
        assert_eq!(read("-h"), Err(Refusal::Help));
        assert_eq!(read("-"), Err(Refusal::Invalid("\"-\" is not a valid flag".into())));
        assert_eq!(read("-- --name"), Err(Refusal::Invalid("\"--name\" is not a valid flag".into())));
    }

    #[test]
    fn secrets_are_not_shown() {
        let line = ["--discovery-password", "hush", "--discovery-user=me:hush", "--name", "a"].map(str::to_owned);
        let shown = without_secrets(&line);
        assert_eq!(shown, ["--discovery-password", "***", "--discovery-user=***", "--name", "a"]);
    }
}
