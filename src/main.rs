//! The `kelson` binary: reads the command line, composes the parts, and says in one line why it failed.

mod bench;
mod certificates;
mod cli;
mod dev;
mod folder;
mod listen;
mod memory;
mod parts;
mod process;
mod progress;
mod scheduler;
mod shutdown;
mod snapshot;
mod store;
mod tasks;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    // A link named etcd is an etcd; its flags are Go's, which no other parser reads.
    if Path::new(&program).file_name().is_some_and(|name| name == "etcd") {
        return store::main(&program, &arguments);
    }
    if let Some((_, flags)) = arguments.split_first().filter(|(first, _)| *first == "store") {
        return store::main(&program, flags);
    }
    end_with_the_reader();
    match start(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends in silence, as other programs do, where nobody reads the output to its end (`kelson bench ... | head`).
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

fn start(cli: Cli) -> Result<()> {
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("--log {}", cli.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        match cli.command {
            Command::Dev(options) => dev::run(options).await,
            Command::Store(options) => {
                anyhow::bail!(
                    "the flags of `kelson store` follow its name; before it there are none: {:?}",
                    options.flags
                )
            }
            Command::Apiserver(options) => parts::apiserver(options).await,
            Command::Controllers(options) => parts::controllers(options).await,
            Command::Scheduler(options) => scheduler::run(options).await,
            Command::Explain(what) => scheduler::explain(what).await,
            Command::Nodesim(options) => parts::nodesim(options).await,
            Command::Snapshot(command) => snapshot::run(command).await,
            Command::Migrate(options) => snapshot::migrate(options).await,
            Command::Bench(bench) => bench::run(bench).await,
        }
    })
}
