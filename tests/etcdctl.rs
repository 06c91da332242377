//! Every subcommand that etcdctl has for one member, as stories: commands, and below each what etcdctl printed.
//!
//! ```text
//! $ ARGUMENTS            runs etcdctl, and shows what it prints; a failure ends with its code
//! $ ARGUMENTS -> NAME    and keeps the hexadecimal id that it prints as {NAME}, here and in all that follows
//! < LINE                 a line of the command's input
//! & NAME ARGUMENTS       starts it beside what follows
//! ? NAME TEXT            waits until that prints a line with the text
//! < NAME LINE            a line of its input
//! ! NAME                 interrupts it if it still runs, and shows all that it printed
//! ```
//! The stories are in `tests/data/etcdctl`. They run on `kelson store` and on a real etcd, which has written what they
//! expect (`KELSON_UPDATE_SCENARIOS=1`). Left out of sight is what differs between any two clusters: ids, sizes, times.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};

use regex::Regex;

use crate::poll;
use crate::program::Program;
use crate::server::{Kind, Server};

/// Begins the first line of a story that our store cannot be told yet, and says why.
const NOT_YET: &str = "# Not yet on kelson store: ";

/// Bound on what a command or a text is waited for, in seconds.
const PATIENCE: u64 = 60;

/// Looks at what a program prints, in a row, that must find nothing new before it is interrupted.
const QUIET: u32 = 4;

struct Story<'a> {
    etcdctl: &'a Path,
    server: Server,
    /// What stands for what: names in the story for the ids of this run.
    names: Vec<(String, String)>,
    masks: Vec<(Regex, &'static str)>,
    beside: BTreeMap<String, (Program, ChildStdin)>,
}

/// A command of a story, the lines of its input, and what it printed.
struct Step {
    line: usize,
    command: String,
    input: Vec<String>,
    printed: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        if let Some(printed) = content.strip_prefix("  ") {
            steps.last_mut().expect("a command comes first").printed.push(printed.to_owned());
        } else if let (Some(input), Some(step)) = (content.strip_prefix('<'), steps.last_mut())
            && step.command.starts_with('$')
        {
            step.input.push(input.strip_prefix(' ').unwrap_or(input).to_owned());
        } else if !content.is_empty() && !content.starts_with('#') {
            steps.push(Step { line, command: content.to_owned(), input: Vec::new(), printed: Vec::new() });
        }
    }
    steps
}

/// Words as a shell would take them, of which quotes are all that is needed.
fn words(line: &str) -> Vec<String> {
    let quoted = Regex::new(r#"'([^']*)'|(\S+)"#).expect("a pattern");
    let word = |found: regex::Captures| found.get(1).or(found.get(2)).expect("one of them").as_str().to_owned();
    quoted.captures_iter(line).map(word).collect()
}

impl Story<'_> {
    fn start<'a>(etcdctl: &'a Path, kind: &Kind) -> Story<'a> {
        let server = Server::start(kind);
        let url = server.url();
        let folder = server.path("").display().to_string();
        let names = [("url", url.clone()), ("endpoint", url.replace("http://", "")), ("dir", folder)];
        let names = names.map(|(name, value)| (format!("{{{name}}}"), value.trim_end_matches('/').to_owned())).to_vec();
        let mask = |pattern, shown| (Regex::new(pattern).expect("a pattern"), shown);
        let masks = vec![
            mask(" {2,}", " "),
            mask(r"3\.7\.\d+", "3.7.x"),
            mask(r"\d+(\.\d+)?(ns|µs|ms|s)\b", "TIME"),
            mask(r"\b\d+(\.\d+)? ?[kMG]?B\b", "SIZE"),
            mask(r#""(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|dbSizeQuota)":\d+"#, "\"$1\":N"),
            mask(r#""(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|DBSizeQuota)" : \d+"#, "\"$1\" : N"),
            mask(r#""ttl":\d+"#, "\"ttl\":N"),
            mask(r#""TTL" : \d+"#, "\"TTL\" : N"),
            mask(r"(true|false), (true|false), \d+, \d+, \d+,", "$1, $2, N, N, N,"),
            mask(r"│ \d+ +│ +\d+ │ +\d+ │", "│ N │ N │ N │"),
            mask(r"\d+%", "N%"),
            mask(r"http://127\.0\.0\.1:\d{4,}", "{peer}"),
            mask(r"\b[0-9a-f]{16}\b", "{id}"),
            // The key of a lock or of a candidate ends in its lease's id, without the zeros that it begins with.
            mask(r"\b([el])/[0-9a-f]+\b", "$1/{id}"),
            mask(r"[─]+", "─"),
            mask(r#"\{"level":.*"#, "LOG"),
        ];
        let mut story = Story { etcdctl, server, names, masks, beside: BTreeMap::new() };
        let list = story.run(&["member".into(), "list".into(), "-w".into(), "json".into()], &[]).0;
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        for (name, id) in [("cluster", &list["header"]["cluster_id"]), ("member", &list["header"]["member_id"])] {
            let id = id.as_u64().expect("an id");
            story.names.push((format!("{{{name}}}"), id.to_string()));
            story.names.push((format!("{{{name}:x}}"), format!("{id:x}")));
        }
        story
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(self.etcdctl);
        // A temporary folder is where it leaves what it makes.
        command.args(["--endpoints", &self.server.url()]).args(arguments).current_dir(self.server.path(""));
        command
    }

    /// What it printed, and the code that it ended with.
    fn run(&self, arguments: &[String], input: &[String]) -> (String, i32) {
        let name = format!("etcdctl {}", arguments.join(" "));
        let (mut program, mut stdin) = Program::start_with_input(&name, &mut self.command(arguments));
        for line in input {
            // One that refuses its arguments reads nothing.
            let _ = writeln!(stdin, "{line}");
        }
        drop(stdin);
        let ended = poll::until(&format!("{name} ends"), PATIENCE, || program.try_ended().ok_or(program.output()));
        (program.output() + &program.errors(), ended.code().unwrap_or(-1))
    }

    /// The story's words with the ids of this run for their names.
    fn meant(&self, line: &str) -> Vec<String> {
        let mut words = words(line);
        for word in &mut words {
            for (name, value) in &self.names {
                *word = word.replace(name, value);
            }
        }
        words
    }

    /// What was printed, with names for the ids of this run.
    fn shown(&self, printed: &str) -> Vec<String> {
        let mut shown = printed.to_owned();
        for (name, value) in &self.names {
            shown = shown.replace(value, name);
        }
        let masked = |line: &str| {
            let mut line = line.to_owned();
            for (pattern, instead) in &self.masks {
                line = pattern.replace_all(&line, *instead).into_owned();
            }
            line.trim_end().to_owned()
        };
        shown.lines().map(masked).filter(|line| !line.contains("LOG")).collect()
    }

    fn tell(&mut self, step: &Step) -> Vec<String> {
        let (kind, rest) = step.command.split_once(' ').expect("a command has words");
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match kind {
            "$" => {
                let (arguments, keep) = match rest.split_once(" -> ") {
                    Some((arguments, name)) => (arguments, Some(name)),
                    None => (rest, None),
                };
                let (printed, code) = self.run(&self.meant(arguments), &step.input);
                if let Some(name) = keep {
                    let id = Regex::new(r"\b[0-9a-f]{16}\b").expect("a pattern");
                    let id = id.find(&printed).unwrap_or_else(|| panic!("no id in {printed:?}")).as_str();
                    let decimal = i64::from_str_radix(id, 16).expect("an id").to_string();
                    self.names.push((format!("{{{name}}}"), id.to_owned()));
                    self.names.push((format!("{{{name}:d}}"), decimal));
                }
                let mut shown = self.shown(&printed);
                if code != 0 {
                    shown.push(format!("exit {code}"));
                }
                shown
            }
            "&" => {
                let mut command = self.command(&self.meant(text));
                let started = Program::start_with_input(&format!("etcdctl {text}"), &mut command);
                self.beside.insert(name.to_owned(), started);
                Vec::new()
            }
            "?" => {
                let (program, _) = self.beside.get_mut(name).expect("it was started");
                let wanted = text.to_owned();
                poll::until(&format!("{name} prints {wanted:?}"), PATIENCE, || {
                    let printed = program.output() + &program.errors();
                    if printed.contains(&wanted) { Ok(()) } else { Err(printed) }
                });
                Vec::new()
            }
            "<" => {
                let (_, input) = self.beside.get_mut(name).expect("it was started");
                writeln!(input, "{text}").expect("it reads");
                Vec::new()
            }
            "!" => {
                let (mut program, input) = self.beside.remove(name).expect("it was started");
                drop(input);
                // What it prints of one event comes in several lines.
                let (mut last, mut looks) = (String::new(), 0);
                poll::until(&format!("{name} is quiet"), PATIENCE, || {
                    let now = program.output() + &program.errors();
                    looks = if now == last { looks + 1 } else { 0 };
                    last = now;
                    if looks >= QUIET { Ok(()) } else { Err(last.clone()) }
                });
                if program.try_ended().is_none() {
                    program.signal(libc::SIGINT);
                }
                poll::until(&format!("{name} ends"), PATIENCE, || program.try_ended().ok_or(program.output()));
                self.shown(&(program.output() + &program.errors()))
            }
            other => panic!("a story has no line that begins with {other:?}"),
        }
    }
}

/// Tells a story, and returns it with what was printed.
fn retell(text: &str, etcdctl: &Path, kind: &Kind) -> String {
    let mut story = Story::start(etcdctl, kind);
    let mut told: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let steps = steps(text);
    for step in &steps {
        told.insert(step.line, story.tell(step));
    }
    // Below the command and its input.
    let mut all = String::new();
    let mut waiting: Option<Vec<String>> = None;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("  "));
    for (number, line) in lines {
        let own_input = line.starts_with('<') && !told.contains_key(&(number + 1));
        if !own_input {
            for printed in waiting.take().unwrap_or_default() {
                all += &format!("  {printed}\n");
            }
        }
        all += line;
        all.push('\n');
        waiting = told.remove(&(number + 1)).or(waiting);
    }
    for printed in waiting.unwrap_or_default() {
        all += &format!("  {printed}\n");
    }
    all
}

fn holds(name: &str) {
    let Some(etcdctl) = crate::cluster::peer("KELSON_TEST_ETCDCTL", "etcdctl against the store") else { return };
    let file: PathBuf = format!("{}/tests/data/etcdctl/{name}.txt", env!("CARGO_MANIFEST_DIR")).into();
    let text = std::fs::read_to_string(&file).expect("a story");
    let update = std::env::var_os("KELSON_UPDATE_SCENARIOS").is_some();
    for kind in Kind::all() {
        if matches!(kind, Kind::Kelson) && (update || text.starts_with(NOT_YET)) {
            if !update {
                let why = text.lines().next().unwrap_or_default();
                let _ = writeln!(std::io::stderr(), "SKIPPED: etcdctl story {name}: {why}");
            }
            continue;
        }
        let told = retell(&text, &etcdctl, &kind);
        if update {
            std::fs::write(&file, told).expect("the story is written");
            continue;
        }
        let mut differences = Vec::new();
        for (want, got) in steps(&text).iter().zip(steps(&told)) {
            if want.printed != got.printed {
                let (command, line) = (&want.command, want.line);
                differences
                    .push(format!("{name}:{line}: {command}\n{:#?}\ninstead of {:#?}", got.printed, want.printed));
            }
        }
        let found = differences.join("\n");
        assert!(differences.is_empty(), "{}, {} differences:\n{found}", kind.name(), differences.len());
    }
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_story_is_told() {
            let folder = format!("{}/tests/data/etcdctl", env!("CARGO_MANIFEST_DIR"));
            let mut found: Vec<_> = std::fs::read_dir(folder).expect("stories").map(|entry| {
                let path = entry.expect("a file").path();
                path.file_stem().expect("a name").to_string_lossy().into_owned()
            }).collect();
            found.sort();
            assert_eq!(found, [$(stringify!($name)),*]);
        }
    };
}

stories! { cluster keys leases locks mirror snapshots transactions users watches }

#[test]
fn words_are_taken_as_by_a_shell() {
    assert_eq!(words("put a 'b c' -w json '' d"), ["put", "a", "b c", "-w", "json", "", "d"]);
    let step = &steps("# x\n$ txn\n< a\n<\n< b\n  out\n& w watch a\n< w line\n")[..];
    assert_eq!((step[0].input.len(), step[0].printed.len(), step[1].command.as_str()), (3, 1, "& w watch a"));
}
