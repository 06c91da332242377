//! `kelson store`: the store with etcd's own command line, environment, configuration file, listeners and logs. Run under
//! the name `etcd` the program is this and nothing else.

pub mod cluster;
mod commandline;
mod directory;
mod duration;
mod environment;
mod features;
mod file;
mod flags;
mod help;
mod journal;
mod log;
mod notify;
mod rotation;
mod run;
mod settings;
mod signals;
mod sockets;
mod tls;
pub mod url;
mod validate;
mod value;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value as Json;

use commandline::Refusal;
pub use duration::Nanos;
use log::{Level, Logger, Output};
use rotation::{RotatingFile, Rotation};
use settings::Settings;

/// Status after a mistake in the flags themselves, and after one in what they say.
const USAGE: u8 = 2;
const INVALID: u8 = 1;

/// Why nothing was started, told already; the status to end with.
struct Ended(u8);

/// Runs the store. `arguments` are those after the program's name, or after `store`.
pub fn main(program: &str, arguments: &[String]) -> ExitCode {
    match start(program, arguments) {
        Ok(by) => signals::end(by),
        Err(Ended(status)) => ExitCode::from(status),
    }
}

fn start(program: &str, arguments: &[String]) -> Result<signals::Asked, Ended> {
    let given = match commandline::parse(arguments) {
        Ok(given) => given,
        Err(Refusal::Help) => {
            eprintln!("{}", help::usage());
            println!("{}", help::help());
            return Err(Ended(0));
        }
        Err(Refusal::Usage(why)) => {
            eprintln!("{why}\n{}", help::usage());
            return Err(Ended(USAGE));
        }
        Err(Refusal::Invalid(why)) => return Err(refuse(program, arguments, &why)),
    };
    let mut settings = Settings::default();
    for (flag, value) in given.clone() {
        settings.set(flag, value);
    }
    if settings.version {
        print!("{}", help::version());
        return Err(Ended(0));
    }
    let file = match settings.config_file.as_str() {
        "" => std::env::var("ETCD_CONFIG_FILE").unwrap_or_default(),
        file => file.to_owned(),
    };
    let (mut settings, checked) = if file.is_empty() {
        let checked = from_environment(&mut settings, &given)?;
        (settings, checked)
    } else {
        from_file(&file)?
    };
    let checked = checked.and_then(|()| open_log(&settings)).and_then(|()| validate::check(&settings));
    if !file.is_empty() && checked.is_ok() {
        let message = "loaded server configuration, other configuration command line flags and environment variables will \
                       be ignored if provided";
        log::info(message, &[("path", file.into())]);
    }
    if let Err(why) = checked {
        return Err(refuse(program, arguments, &why));
    }
    running(program, arguments);
    advise(&settings);
    complete(&mut settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        log::log(Level::Fatal, "starting the runtime failed", &[("error", error.to_string().into())]);
        Ended(INVALID)
    })?;
    runtime.block_on(run::run(settings)).map_err(|why| {
        log::log(Level::Fatal, "bootstrap failed", &[("error", why.into())]);
        Ended(INVALID)
    })
}

fn running(program: &str, arguments: &[String]) {
    let shown = std::iter::once(program.to_owned()).chain(commandline::without_secrets(arguments));
    log::info("Running: ", &[("args", shown.collect::<Vec<_>>().into())]);
}

fn refuse(program: &str, arguments: &[String], why: &str) -> Ended {
    running(program, arguments);
    log::warn("failed to verify flags", &[("error", why.into())]);
    Ended(INVALID)
}

/// Adds what the environment says. Nobody's mistake is told twice: an error is for the caller to tell.
fn from_environment(settings: &mut Settings, given: &commandline::Given) -> Result<Result<(), String>, Ended> {
    use environment::Note;
    // What is no text can belong to no flag.
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let found = environment::read(&variables.collect(), given);
    for note in &found.notes {
        match note {
            Note::Used { variable, value } => log::info(
                "recognized and used environment variable",
                &[("variable-name", variable.as_str().into()), ("variable-value", value.as_str().into())],
            ),
            Note::Unknown(variable) => {
                log::warn("unrecognized environment variable", &[("environment-variable", variable.as_str().into())]);
            }
            Note::Special { variable, value } => log::warn(
                "cannot set special environment variable",
                &[("key", variable.as_str().into()), ("value", value.as_str().into())],
            ),
        }
    }
    if let Some(variable) = found.conflict {
        let message = "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                       environment variable or disable flag))";
        log::log(Level::Fatal, message, &[("environment-variable", variable.into())]);
        return Err(Ended(INVALID));
    }
    for (flag, value) in found.given {
        settings.set(flag, value);
    }
    // Where clients come in elsewhere than by default, nobody knows what to tell them.
    if settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls") {
        settings.advertise_client_urls = None;
    }
    let found_otherwise = !settings.discovery_srv.is_empty() || !settings.discovery_endpoints.is_empty();
    if found_otherwise && !settings.is_set("initial-cluster") {
        settings.initial_cluster.clear();
    }
    Ok(found.error.map_or(Ok(()), Err))
}

fn from_file(path: &str) -> Result<(Settings, Result<(), String>), Ended> {
    match file::read(Path::new(path)) {
        Err(file::Refusal::Plain(text)) => {
            eprintln!("{text}");
            Err(Ended(INVALID))
        }
        Err(file::Refusal::Invalid(why)) => Ok((Settings::default(), Err(why))),
        Ok(read) => {
            let mut settings = read.settings;
            if !settings.discovery_srv.is_empty() && settings.initial_cluster == Settings::default().initial_cluster {
                settings.initial_cluster.clear();
            }
            if !read.unknown.is_empty() {
                log::warn("configuration file has unknown keys", &[("keys", read.unknown.into())]);
            }
            Ok((settings, Ok(())))
        }
    }
}

/// Sends the log where the flags say.
fn open_log(settings: &Settings) -> Result<(), String> {
    match settings.logger.as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let outputs = &settings.log_outputs;
    let is = |name: &str| outputs.iter().any(|output| output == name);
    if outputs.len() > 1 && is("default") {
        return Err("multi logoutput for \"default\" is not supported yet".into());
    }
    if outputs.len() > 1 && is("systemd/journal") {
        let shown: Vec<_> = outputs.iter().map(|output| format!("{output:?}")).collect();
        return Err(format!(
            "running with systemd/journal but other '--log-outputs' values ([{}]) are configured with 'default'; override \
             'default' value with something else",
            shown.join(" ")
        ));
    }
    let is_stream = |output: &str| matches!(output, "default" | "stderr" | "stdout");
    let rotation = if settings.log_rotation {
        let files = outputs.iter().filter(|output| !is_stream(output)).count();
        if files > 1 || files == 0 && outputs.len() <= 1 {
            return Err("--log-outputs requires a single file path when --log-rotate-config-json is defined".into());
        }
        Some(Rotation::parse(&settings.log_rotation_config)?)
    } else {
        None
    };
    let console = match settings.log_format.as_str() {
        "console" => true,
        "json" | "" => false,
        other => return Err(format!("unknown log format: {other}, supported values json, console")),
    };
    let Some(level) = Level::parse(&settings.log_level) else {
        return Err(format!("unrecognized level: {:?}", settings.log_level));
    };
    let outputs = outputs.iter().map(|output| open_output(output, rotation.as_ref())).collect::<Result<Vec<_>, _>>()?;
    log::install(Logger::new(level, console, outputs));
    if rotation.is_some_and(|rotation| rotation.compress || rotation.localtime) {
        log::warn("old log files are neither compressed nor named by local time", &[]);
    }
    Ok(())
}

fn open_output(output: &str, rotation: Option<&Rotation>) -> Result<Output, String> {
    match output {
        "default" | "" | "stderr" => Ok(Output::Stderr),
        "stdout" => Ok(Output::Stdout),
        "systemd/journal" => {
            let connected = journal::Journal::connect();
            connected
                .map(Output::Journal)
                .map_err(|error| format!("cannot reach the journal: {}", sockets::plain(&error)))
        }
        path => {
            let path = PathBuf::from(path);
            let opened = RotatingFile::open(&path, rotation.cloned());
            opened.map(Output::File).map_err(|error| {
                format!("couldn't open sink {:?}: open {}: {}", path, path.display(), sockets::plain(&error))
            })
        }
    }
}

/// Says what is worth a thought before anything is started.
fn advise(settings: &Settings) {
    if settings.listen_client_http_urls.is_empty() {
        log::warn("Running http and grpc server on single port. This is not recommended for production.", &[]);
    }
    if settings.name == "default" {
        let message = "it isn't recommended to use default name, please set a value for --name. Note that etcd might run \
                       into issue when multiple members have the same default name";
        log::warn(message, &[("name", settings.name.as_str().into())]);
    }
    if !settings.without_effect.is_empty() {
        let flags: Vec<_> = settings.without_effect.iter().map(|flag| Json::from(*flag)).collect();
        log::warn("these flags have no effect here", &[("flags", flags.into())]);
    }
    if settings.unsafe_no_fsync {
        log::warn("--unsafe-no-fsync is set: a power cut will lose acknowledged writes", &[]);
    }
    if settings.max_request_bytes > 10 << 20 {
        log::warn(
            "exceeded recommended request limit",
            &[
                ("max-request-bytes", settings.max_request_bytes.into()),
                ("recommended-request-bytes", (10 << 20).into()),
            ],
        );
    }
}

/// Fills in what follows from the rest.
fn complete(settings: &mut Settings) {
    if let Some(host) = cluster::complete(settings, cluster::default_host().as_deref()) {
        log::info("detected default host for advertise", &[("host", host.into())]);
    }
    if settings.data_dir.is_empty() {
        settings.data_dir = format!("{}.etcd", settings.name);
        log::warn("'data-dir' was empty; using default", &[("data-dir", settings.data_dir.as_str().into())]);
    }
}
