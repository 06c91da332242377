//! Logs in etcd's form: a line of JSON, or of text for people, with `level`, `ts`, `caller`, `msg` and further fields.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::Location;
use std::sync::OnceLock;

use parking_lot::Mutex;
use serde_json::Value as Json;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::journal::Journal;
use super::rotation::RotatingFile;

/// How grave an entry is. The last ones log and let nothing follow; they are told apart for `--log-level` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    DPanic,
    Panic,
    Fatal,
}

impl Level {
    /// zap's names, in its two notations.
    pub fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "debug" | "DEBUG" => Level::Debug,
            "info" | "INFO" | "" => Level::Info,
            "warn" | "WARN" | "warning" | "WARNING" => Level::Warn,
            "error" | "ERROR" => Level::Error,
            "dpanic" | "DPANIC" => Level::DPanic,
            "panic" | "PANIC" => Level::Panic,
            "fatal" | "FATAL" => Level::Fatal,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::DPanic => "dpanic",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }
}

/// Where entries go.
pub enum Output {
    Stdout,
    Stderr,
    File(RotatingFile),
    Journal(Journal),
}

/// Fields of an entry, in the order they are written.
pub type Fields<'a> = &'a [(&'a str, Json)];

/// Writes entries of a level and above to all of its outputs.
pub struct Logger {
    level: Level,
    console: bool,
    outputs: Mutex<Vec<Output>>,
}

impl Logger {
    /// A logger; `console` is for people, else it is JSON.
    pub fn new(level: Level, console: bool, outputs: Vec<Output>) -> Logger {
        Logger { level, console, outputs: Mutex::new(outputs) }
    }

    /// Writes an entry that comes from where this is called.
    #[track_caller]
    pub fn log(&self, level: Level, message: &str, fields: Fields<'_>) {
        let from = Location::caller();
        self.write(level, &caller(from.file(), from.line()), message, fields);
    }

    fn write(&self, level: Level, caller: &str, message: &str, fields: Fields<'_>) {
        if level < self.level {
            return;
        }
        let line = render(self.console, level, &now(), caller, message, fields);
        for output in self.outputs.lock().iter_mut() {
            // Whoever closed an output does not want to hear of it.
            let _ = match output {
                Output::Stdout => std::io::stdout().write_all(line.as_bytes()),
                Output::Stderr => std::io::stderr().write_all(line.as_bytes()),
                Output::File(file) => file.write(line.as_bytes()),
                Output::Journal(journal) => journal.write(level, line.trim_end()),
            };
        }
    }
}

fn render(console: bool, level: Level, ts: &str, caller: &str, message: &str, fields: Fields<'_>) -> String {
    let mut line = String::with_capacity(256);
    let pairs = |line: &mut String| {
        for (at, (name, value)) in fields.iter().enumerate() {
            let comma = if at > 0 || !console { "," } else { "" };
            let space = if console && at > 0 { " " } else { "" };
            let colon = if console { ": " } else { ":" };
            // Writing to a string does not fail.
            let _ = write!(line, "{comma}{space}{}{colon}{value}", Json::from(*name));
        }
    };
    if console {
        let _ = write!(line, "{ts}\t{}\t{caller}\t{message}", level.name());
        if !fields.is_empty() {
            line.push_str("\t{");
            pairs(&mut line);
            line.push('}');
        }
    } else {
        let (level, message) = (level.name(), Json::from(message));
        let _ = write!(line, r#"{{"level":"{level}","ts":"{ts}","caller":"{caller}","msg":{message}"#);
        pairs(&mut line);
        line.push('}');
    }
    line.push('\n');
    line
}

/// `2026-11-22T22:53:53.376130Z`
fn now() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    time::OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

/// The last folder that says something, the file and the line.
fn caller(file: &str, line: u32) -> String {
    let mut parts = file.rsplit('/').filter(|part| *part != "src");
    match (parts.next().unwrap_or_default(), parts.next()) {
        (file, Some(folder)) => format!("{folder}/{file}:{line}"),
        (file, None) => format!("{file}:{line}"),
    }
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Makes a logger that of the process, and sends there what the other parts of it tell. The first one stays.
pub fn install(logger: Logger) {
    let level = match logger.level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    };
    if LOGGER.set(logger).is_err() {
        return;
    }
    // Of the libraries only what a reader of these logs can use: what they find wrong.
    let libraries = level.min(LevelFilter::WARN);
    let mut targets = Targets::new().with_default(libraries).with_target("openraft", LevelFilter::ERROR);
    for part in ["kelson", "kelson_engine", "kelson_raft", "kelson_etcd", "kelson_wire"] {
        targets = targets.with_target(part, level);
    }
    // Another subscriber can only be there in tests.
    let _ = tracing_subscriber::registry().with(Forward.with_filter(targets)).try_init();
}

/// Writes an entry to the process's logger, or to standard error as JSON before there is one.
#[track_caller]
pub fn log(level: Level, message: &str, fields: Fields<'_>) {
    match LOGGER.get() {
        Some(logger) => logger.log(level, message, fields),
        None => Logger::new(Level::Info, false, vec![Output::Stderr]).log(level, message, fields),
    }
}

/// An entry of level info.
#[track_caller]
pub fn info(message: &str, fields: Fields<'_>) {
    log(Level::Info, message, fields);
}

/// An entry of level warn.
#[track_caller]
pub fn warn(message: &str, fields: Fields<'_>) {
    log(Level::Warn, message, fields);
}

/// What the parts of the process tell through `tracing`.
struct Forward;

impl<S: tracing::Subscriber> Layer<S> for Forward {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let Some(logger) = LOGGER.get() else { return };
        let metadata = event.metadata();
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let mut collected = Collected::default();
        event.record(&mut collected);
        let caller = caller(metadata.file().unwrap_or_else(|| metadata.target()), metadata.line().unwrap_or(0));
        let fields: Vec<_> = collected.fields.iter().map(|(name, value)| (*name, value.clone())).collect();
        logger.write(level, &caller, &collected.message, &fields);
    }
}

#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(&'static str, Json)>,
}

impl Collected {
    fn take(&mut self, field: &Field, value: Json) {
        match (field.name(), value) {
            ("message", Json::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_zaps() {
        let fields = [("name", Json::from("a\"b")), ("urls", vec!["x", "y"].into()), ("count", 3.into())];
        assert_eq!(
            render(false, Level::Info, "T", "store/run.rs:7", "ready to \"go\"", &fields),
            "{\"level\":\"info\",\"ts\":\"T\",\"caller\":\"store/run.rs:7\",\"msg\":\"ready to \\\"go\\\"\",\
             \"name\":\"a\\\"b\",\"urls\":[\"x\",\"y\"],\"count\":3}\n"
        );
        assert_eq!(
            render(true, Level::Warn, "T", "store/run.rs:7", "careful", &fields),
            "T\twarn\tstore/run.rs:7\tcareful\t{\"name\": \"a\\\"b\", \"urls\": [\"x\",\"y\"], \"count\": 3}\n"
        );
        assert_eq!(render(true, Level::Warn, "T", "c", "m", &[]), "T\twarn\tc\tm\n");
    }

    #[test]
    fn callers_and_times_are_short_and_levels_ordered() {
        assert_eq!(caller("/a/b/src/store/run.rs", 9), "store/run.rs:9");
        assert_eq!(caller("api/etcd/src/server.rs", 9), "etcd/server.rs:9");
        assert_eq!(caller("run.rs", 9), "run.rs:9");
        assert_eq!(now().len(), "2026-11-22T22:53:53.376130Z".len());
        assert_eq!(Level::parse("x"), None);
        assert!(Level::parse("fatal") > Level::parse("WARN"));
    }
}
