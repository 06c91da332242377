//! Deterministic simulation of a whole cluster: raft, engine and clients in one process and one thread, on a simulated
//! network, clock and disks. A seed decides everything that happens: `make sim SEED=17` repeats it. `docs/faults.md` tells
//! what goes wrong and what is checked.

mod chaos;
mod client;
mod dice;
mod eye;
mod invariant;
#[path = "../../faults/linear.rs"]
mod linear;
mod member;
mod net;
#[path = "../../faults/order.rs"]
mod order;
mod panics;
mod poll;
#[cfg(test)]
mod tests;
mod truth;
mod watcher;
mod world;

use std::{process::ExitCode, time::Instant};

use kelson_engine::plant::{self, Bug};

use world::Outcome;

/// What is asked for on the command line.
#[derive(Default)]
struct Asked {
    /// One seed, with its whole trace.
    seed: Option<u64>,
    /// How many, from `from` on.
    seeds: u64,
    from: u64,
    bug: Option<Bug>,
    /// Looks for a seed for each bug, among this many.
    finds: Option<u64>,
}

const USAGE: &str = "kelson-sim [--seed N | --seeds COUNT [--from N] | --finds COUNT] [--bug NAME]";

fn asked() -> Result<Asked, String> {
    let mut asked = Asked { seeds: 100, ..Asked::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--seed" => asked.seed = Some(number()?),
            "--seeds" => asked.seeds = number()?,
            "--from" => asked.from = number()?,
            "--finds" => asked.finds = Some(number()?),
            "--bug" => {
                let named = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == value);
                asked.bug = Some(named.ok_or_else(|| format!("there is no bug {value}: {:?}", Bug::ALL))?);
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(asked)
}

fn report(seed: u64, bug: Option<Bug>, outcome: &Outcome) {
    outcome.trace.iter().for_each(|line| println!("{line}"));
    for violation in &outcome.violations {
        println!("VIOLATED: {violation}");
    }
    let bug = bug.map_or_else(String::new, |bug| format!(" BUG={bug:?}"));
    println!("replay: make sim SEED={seed}{bug}");
}

/// Prints the table of `tests.rs`: for each bug, or for one, the first seed that finds it, and by which invariant.
fn finds(bug: Option<Bug>, count: u64) -> ExitCode {
    let mut all = true;
    for bug in Bug::ALL.into_iter().filter(|one| bug.is_none_or(|bug| bug == *one)) {
        plant::plant(Some(bug));
        let found = (0..count).find_map(|seed| Some((seed, world::run(seed, false).violations.first()?.invariant)));
        match found {
            Some((seed, invariant)) => println!("    (Bug::{bug:?}, {seed}, \"{invariant}\"),"),
            None => println!("    // Bug::{bug:?}: not among {count} seeds"),
        }
        all &= found.is_some();
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if let Some(count) = asked.finds {
        return finds(asked.bug, count);
    }
    plant::plant(asked.bug);
    if let Some(seed) = asked.seed {
        let outcome = world::run(seed, true);
        report(seed, asked.bug, &outcome);
        println!("trace hash {:016x}", outcome.hash);
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let begun = Instant::now();
    let (mut failed, mut answers, mut revisions, mut entries, mut lasted) = (Vec::new(), 0, 0, 0, 0.0);
    for seed in asked.from..asked.from + asked.seeds {
        let outcome = world::run(seed, false);
        answers += outcome.answers;
        revisions += outcome.revisions;
        entries += outcome.entries;
        lasted += outcome.lasted.as_secs_f64();
        if !outcome.violations.is_empty() {
            report(seed, asked.bug, &outcome);
            failed.push(seed);
        }
        let done = seed - asked.from + 1;
        if done.is_multiple_of(100) {
            println!("{done} seeds, {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    println!(
        "{} seeds in {:.1} s: {lasted:.0} simulated seconds, {entries} entries, {revisions} revisions, {answers} answers",
        asked.seeds,
        begun.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} seeds found something: {failed:?}", failed.len());
    ExitCode::FAILURE
}
