//! Runs a compiled script in virtual time: what it prints when, which files it makes, when it ends and with what code.

use std::collections::VecDeque;

use crate::Millis;
use crate::arithmetic::arithmetic;
use crate::script::{Op, Script};
use crate::words::{Part, Word};

/// Steps after which a run counts as one that never ends.
const MAX_STEPS: u32 = 200_000;
/// Iterations of an endless loop whose output can still be read; older output has been rotated away.
pub(crate) const KEPT_ITERATIONS: u64 = 2_000;
/// Longest line, in bytes.
const MAX_LINE: usize = 16 << 10;
/// Most variables and files of a run, words of a list.
const MAX_NAMES: usize = 256;
const MAX_WORDS: usize = 10_000;
/// Deepest nesting of command substitutions.
const MAX_DEPTH: u32 = 8;

/// Variables of a run.
type Vars = Vec<(String, String)>;

/// What a script sees of its surroundings.
pub(crate) trait Surroundings {
    /// Value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// The wall clock at the start of the run.
    fn started(&self) -> Millis;
    /// The host's name.
    fn hostname(&self) -> String;
    /// Whether a program that is not simulated and ends the script runs for ever.
    fn serves(&self) -> bool;
    /// How long any other unknown program runs.
    fn work(&self) -> Millis;
}

/// What happens next in a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A line of output, at this offset from the start.
    Line(Millis, String),
    /// The end, with the exit code.
    Ended(Millis, i32),
    /// Nothing until this offset, which is after the horizon.
    Later(Millis),
    /// Nothing more, ever: it runs until it is stopped.
    Forever,
}

/// A run of a script that can be continued.
#[derive(Clone)]
pub(crate) struct Run {
    pc: usize,
    status: i32,
    time: Millis,
    vars: Vars,
    /// Files that the script made (true) or removed, with the offset of that.
    pub files: Vec<(Millis, String, bool)>,
    lists: Vec<VecDeque<String>>,
    steps: u32,
    spins: u32,
    lines: VecDeque<(Millis, String)>,
    partial: String,
    background: Millis,
    ended: Option<Option<i32>>,
    /// Time and variables at the last turn of an endless loop, to skip over turns that nobody will read.
    turn: Option<(usize, Millis, Vars)>,
    /// Whether SIGTERM is ignored, by `trap '' TERM`.
    pub ignores_term: bool,
    depth: u32,
}

impl Run {
    pub fn new() -> Run {
        Run {
            pc: 0,
            status: 0,
            time: 0,
            vars: Vec::new(),
            files: Vec::new(),
            lists: Vec::new(),
            steps: 0,
            spins: 0,
            lines: VecDeque::new(),
            partial: String::new(),
            background: 0,
            ended: None,
            turn: None,
            ignores_term: false,
            depth: 0,
        }
    }

    /// Goes on until a line is printed, the run ends, or what comes next lies after `horizon`. With `skip`, turns of an
    /// endless loop long before the horizon may be skipped; without it, an endless loop is reported as such.
    pub fn next(&mut self, script: &Script, around: &dyn Surroundings, horizon: Millis, skip: bool) -> Next {
        loop {
            if let Some((at, _)) = self.lines.front()
                && *at > horizon
            {
                return Next::Later(*at);
            }
            if let Some((at, line)) = self.lines.pop_front() {
                return Next::Line(at, line);
            }
            if let Some(end) = self.ended {
                return match end {
                    Some(_) if self.time > horizon => Next::Later(self.time),
                    Some(code) => Next::Ended(self.time, code),
                    None => Next::Forever,
                };
            }
            if self.time > horizon {
                return Next::Later(self.time);
            }
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.end(None);
                continue;
            }
            match script.ops.get(self.pc) {
                None => {
                    let status = self.status;
                    self.end(Some(status));
                }
                Some(op) => self.step(op, around, horizon, skip),
            }
        }
    }

    fn end(&mut self, code: Option<i32>) {
        if !self.partial.is_empty() {
            let rest = std::mem::take(&mut self.partial);
            self.lines.push_back((self.time, rest));
        }
        self.ended = Some(code);
    }

    fn step(&mut self, op: &Op, around: &dyn Surroundings, horizon: Millis, skip: bool) {
        self.pc += 1;
        match op {
            Op::Run { words, shown, target, last } => {
                let argv = self.expand_all(words, around);
                if let Some(target) = target {
                    let file = self.expand(target, around);
                    self.file(file, true);
                }
                self.run(&argv, *shown, *last, around);
            }
            Op::Assign(name, value) => {
                let value = self.expand(value, around);
                self.assign(name, value);
                self.status = 0;
            }
            Op::Background(words) => {
                let argv = self.expand_all(words, around);
                let ends = match argv.first().map(|name| base(name)) {
                    Some("sleep") => seconds(&argv[1..]).map_or(Millis::MAX, |length| self.time.saturating_add(length)),
                    Some("echo" | "true" | "touch" | ":") => self.time,
                    _ => Millis::MAX,
                };
                self.background = self.background.max(ends);
                self.status = 0;
            }
            Op::Service => {
                self.background = Millis::MAX;
                self.status = 0;
            }
            Op::Jump(target) => self.pc = *target,
            Op::JumpIf(success, target) => {
                if (self.status == 0) == *success {
                    self.pc = *target;
                }
            }
            Op::Loop { head, endless } => {
                self.pc = *head;
                self.turned(*head, *endless, horizon, skip);
            }
            Op::Not => self.status = i32::from(self.status == 0),
            Op::ForStart(words) => {
                let mut list: VecDeque<String> = self.expand_all(words, around).into();
                list.truncate(MAX_WORDS);
                self.lists.push(list);
            }
            Op::ForNext { variable, end } => match self.lists.last_mut().and_then(VecDeque::pop_front) {
                Some(value) => self.assign(variable, value),
                None => self.pc = *end,
            },
            Op::ForEnd => {
                self.lists.pop();
            }
        }
    }

    /// At the end of a turn of a loop.
    fn turned(&mut self, head: usize, endless: bool, horizon: Millis, skip: bool) {
        if endless && !skip {
            return self.end(None);
        }
        let Some((at, before, vars)) = self.turn.replace((head, self.time, self.vars.clone())) else { return };
        if at != head {
            return;
        }
        let length = self.time - before;
        if length == 0 {
            // A loop that takes no time would spin here for ever.
            self.spins += 1;
            if endless && self.spins > 100 {
                self.end(None);
            }
            return;
        }
        self.spins = 0;
        if !endless {
            return;
        }
        let turns = ((horizon - self.time.min(horizon)) / length).saturating_sub(KEPT_ITERATIONS);
        self.steps = 0;
        if turns == 0 {
            return;
        }
        // What changes by the same number each turn (a counter) is carried over the turns that are skipped.
        for (name, value) in &mut self.vars {
            let old = vars.iter().find(|(known, _)| known == name).and_then(|(_, old)| old.parse::<i64>().ok());
            if let (Some(old), Ok(new)) = (old, value.parse::<i64>()) {
                let skipped = i64::try_from(turns).unwrap_or(i64::MAX);
                *value = new.saturating_add((new - old).saturating_mul(skipped)).to_string();
            }
        }
        self.time += turns * length;
        self.turn = None;
    }

    fn assign(&mut self, name: &str, value: String) {
        let known = self.vars.iter().position(|(known, _)| known == name);
        match known {
            Some(at) => self.vars[at].1 = value,
            None if self.vars.len() < MAX_NAMES => self.vars.push((name.into(), value)),
            None => {}
        }
    }

    fn file(&mut self, name: String, exists: bool) {
        if !name.starts_with("/dev/") && self.files.len() < MAX_NAMES && self.exists(&name, self.time) != Some(exists) {
            self.files.push((self.time, name, exists));
        }
    }

    /// Whether the script had made this file at an offset. `None` if it never touched it until then.
    pub fn exists(&self, name: &str, at: Millis) -> Option<bool> {
        self.files.iter().rev().find(|(made, known, _)| *made <= at && known == name).map(|(_, _, exists)| *exists)
    }

    fn print(&mut self, text: &str, newline: bool) {
        for c in text.chars() {
            if c == '\n' {
                let line = std::mem::take(&mut self.partial);
                self.lines.push_back((self.time, line));
            } else if self.partial.len() < MAX_LINE {
                self.partial.push(c);
            }
        }
        if newline {
            let line = std::mem::take(&mut self.partial);
            self.lines.push_back((self.time, line));
        }
    }

    fn run(&mut self, mut argv: &[String], shown: bool, mut last: bool, around: &dyn Surroundings) {
        self.status = 0;
        while let Some(wrapper @ ("exec" | "command" | "time" | "nohup")) = argv.first().map(|name| base(name)) {
            last |= wrapper == "exec" && argv.len() > 1;
            argv = &argv[1..];
        }
        let Some(name) = argv.first() else { return };
        let args = &argv[1..];
        match base(name) {
            "echo" => {
                let plain = args.iter().take_while(|arg| matches!(arg.as_str(), "-n" | "-e" | "-ne" | "-en")).count();
                let flags: String = args[..plain].concat();
                let text = args[plain..].join(" ");
                let text = if flags.contains('e') { unescape(&text) } else { text };
                if shown {
                    self.print(&text, !flags.contains('n'));
                }
            }
            "printf" => {
                if shown {
                    self.print(&format_words(args), false);
                }
            }
            "sleep" => match seconds(args) {
                Some(length) => self.time = self.time.saturating_add(length),
                None => self.end(None),
            },
            "exit" | "return" => {
                let code = args.first().map_or(0, |code| code.parse::<i32>().unwrap_or(2) & 255);
                self.end(Some(code));
            }
            "false" => self.status = 1,
            "true" | ":" | "set" | "cd" | "mkdir" | "chmod" | "chown" | "sync" | "unset" | "umask" | "ulimit"
            | "cp" | "mv" | "ln" | "kill" | "read" | "shift" | "alias" | "ls" => {}
            "export" | "local" | "readonly" => {
                for argument in args {
                    if let Some((name, value)) = argument.split_once('=') {
                        self.assign(name, value.into());
                    }
                }
            }
            "tail" if args.iter().any(|arg| arg.starts_with("-f") || arg.starts_with("-F") || arg == "--follow") => {
                self.end(None);
            }
            "touch" => args.iter().filter(|arg| !arg.starts_with('-')).for_each(|arg| self.file(arg.clone(), true)),
            "rm" => args.iter().filter(|arg| !arg.starts_with('-')).for_each(|arg| self.file(arg.clone(), false)),
            "cat" => {
                let time = self.time;
                let missing = args.iter().any(|arg| !arg.starts_with('-') && !self.present(arg, time));
                self.status = i32::from(missing);
            }
            "test" => self.status = i32::from(!self.test(args)),
            "[" | "[[" => self.status = i32::from(!self.test(args.split_last().map_or(&[][..], |(_, rest)| rest))),
            "wait" => match self.background {
                Millis::MAX => self.end(None),
                until => self.time = self.time.max(until),
            },
            "trap" => {
                let term = args.iter().skip(1).any(|signal| matches!(signal.as_str(), "TERM" | "SIGTERM" | "15"));
                if term {
                    self.ignores_term = args.first().is_some_and(|action| action.is_empty());
                }
            }
            _ => match self.output_of(argv, around) {
                Some(text) if shown => self.print(&text, true),
                Some(_) => {}
                None if last && around.serves() => self.end(None),
                None => self.time = self.time.saturating_add(around.work()),
            },
        }
    }

    /// Output of a command that only prints, without the last line's end.
    fn output_of(&mut self, argv: &[String], around: &dyn Surroundings) -> Option<String> {
        let args = &argv[1..];
        Some(match base(argv.first()?) {
            "date" => date(around.started() + self.time.min(1 << 50), args.first().map(String::as_str)),
            "hostname" => around.hostname(),
            "whoami" => "root".into(),
            "id" if args.first().is_some_and(|arg| arg == "-u") => "0".into(),
            "uname" => "Linux".into(),
            "pwd" => "/".into(),
            "echo" => args.join(" "),
            "printf" => format_words(args),
            "seq" => {
                let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<i64>().ok());
                let (from, step, to) = match args.len() {
                    1 => (1, 1, number(0)?),
                    2 => (number(0)?, 1, number(1)?),
                    _ => (number(0)?, number(1)?, number(2)?),
                };
                let count = if step == 0 { 0 } else { ((to - from) / step + 1).clamp(0, MAX_WORDS as i64) };
                (0..count).map(|at| (from + at * step).to_string()).collect::<Vec<_>>().join("\n")
            }
            "expr" => arithmetic(&args.join(" "), &|name| self.value(name, around))?.to_string(),
            _ => return None,
        })
    }

    fn present(&self, file: &str, at: Millis) -> bool {
        self.exists(file, at).unwrap_or(!file.starts_with("/tmp/"))
    }

    fn test(&self, args: &[String]) -> bool {
        let negations = args.iter().take_while(|arg| *arg == "!").count();
        let args: Vec<&str> = args[negations..].iter().map(String::as_str).collect();
        (negations % 2 == 1) != self.holds(&args)
    }

    fn holds(&self, args: &[&str]) -> bool {
        let number = |text: &str| text.trim().parse::<i64>().unwrap_or(0);
        match args {
            ["-f" | "-e" | "-r" | "-s" | "-d", file] => self.present(file, self.time),
            ["-z", text] => text.is_empty(),
            ["-n", text] | [text] => !text.is_empty(),
            [left, "=" | "==", right] => left == right,
            [left, "!=", right] => left != right,
            [left, "-eq", right] => number(left) == number(right),
            [left, "-ne", right] => number(left) != number(right),
            [left, "-lt", right] => number(left) < number(right),
            [left, "-le", right] => number(left) <= number(right),
            [left, "-gt", right] => number(left) > number(right),
            [left, "-ge", right] => number(left) >= number(right),
            _ => false,
        }
    }

    fn value(&self, name: &str, around: &dyn Surroundings) -> String {
        match name {
            "?" => return self.status.to_string(),
            "$" => return "1".into(),
            "RANDOM" => return (crate::digest::mix(around.started(), &self.time.to_string()) % 32_768).to_string(),
            _ => {}
        }
        if let Some((_, value)) = self.vars.iter().find(|(known, _)| known == name) {
            return value.clone();
        }
        around.variable(name).unwrap_or_else(|| if name == "HOSTNAME" { around.hostname() } else { String::new() })
    }

    fn expand(&mut self, word: &Word, around: &dyn Surroundings) -> String {
        let mut out = String::new();
        for part in &word.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Var(name, fallback) => {
                    let value = self.value(name, around);
                    out.push_str(if value.is_empty() { fallback } else { &value });
                }
                Part::Arithmetic(text) => {
                    let value = arithmetic(text, &|name| self.value(name, around)).unwrap_or(0);
                    out.push_str(&value.to_string());
                }
                Part::Command(text) => {
                    let inner = crate::words::tokens(text).unwrap_or_default();
                    let words: Vec<Word> = inner
                        .into_iter()
                        .map_while(|token| if let crate::words::Token::Word(word) = token { Some(word) } else { None })
                        .collect();
                    if self.depth >= MAX_DEPTH {
                        continue;
                    }
                    self.depth += 1;
                    let argv = self.expand_all(&words, around);
                    self.depth -= 1;
                    if let Some(text) = self.output_of(&argv, around) {
                        out.push_str(text.trim_end_matches('\n'));
                    }
                }
            }
            if out.len() > MAX_LINE {
                break;
            }
        }
        out
    }

    fn expand_all(&mut self, words: &[Word], around: &dyn Surroundings) -> Vec<String> {
        let mut out = Vec::with_capacity(words.len());
        for word in words {
            let text = self.expand(word, around);
            if word.quoted || word.literal().is_some() {
                out.push(text);
            } else {
                out.extend(text.split_whitespace().take(MAX_WORDS).map(String::from));
            }
        }
        out
    }
}

/// Last segment of a path.
pub(crate) fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// What `sleep` with these arguments takes, in milliseconds. `None`: for ever. What is malformed takes no time.
pub(crate) fn seconds(args: &[String]) -> Option<Millis> {
    let mut total: Millis = 0;
    for text in args {
        if text.starts_with("inf") {
            return None;
        }
        let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
            Some(number) => (number, &text[number.len()..]),
            None => (text.as_str(), "s"),
        };
        let factor = match unit {
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => 1_000.0,
        };
        let length = number.parse::<f64>().unwrap_or(0.0).max(0.0) * factor;
        // `as` saturates: what does not fit is for ever in practice.
        total = total.saturating_add(length as Millis);
    }
    Some(total)
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') => out.push('\\'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}

/// `printf` with `%s`, `%d` and `%%`.
fn format_words(args: &[String]) -> String {
    let Some((format, values)) = args.split_first() else { return String::new() };
    let mut values = values.iter();
    let mut out = String::new();
    let format = unescape(format);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('s' | 'd' | 'i' | 'u') => out.push_str(values.next().map_or("", String::as_str)),
            Some('%') | None => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
        }
    }
    out
}

fn date(at: Millis, format: Option<&str>) -> String {
    use time::{OffsetDateTime, format_description, macros::format_description};
    let Ok(moment) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000) else {
        return String::new();
    };
    if let Some(format) = format.and_then(|format| format.strip_prefix('+')) {
        let parsed = format_description::parse_strftime_owned(format).ok();
        return parsed.and_then(|parsed| moment.format(&parsed).ok()).unwrap_or_else(|| match format {
            "%s" => (at / 1000).to_string(),
            _ => String::new(),
        });
    }
    moment
        .format(format_description!(
            "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] UTC [year]"
        ))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::compile;

    struct Here;
    impl Surroundings for Here {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "WHO").then(|| "world".into())
        }
        fn started(&self) -> Millis {
            1_700_000_000_000
        }
        fn hostname(&self) -> String {
            "web-0".into()
        }
        fn serves(&self) -> bool {
            true
        }
        fn work(&self) -> Millis {
            200
        }
    }

    /// The run as text: `offset:line` each, then how it ends.
    fn play(text: &str, horizon: Millis) -> String {
        let script = compile(text).unwrap();
        let mut run = Run::new();
        let mut out = Vec::new();
        loop {
            match run.next(&script, &Here, horizon, true) {
                Next::Line(at, line) => out.push(format!("{at}:{line}")),
                Next::Ended(at, code) => break out.push(format!("{at}=exit {code}")),
                Next::Later(at) => break out.push(format!("{at}=later")),
                Next::Forever => break out.push("forever".into()),
            }
        }
        out.join(" | ")
    }

    #[test]
    fn sequences_and_conditions() {
        assert_eq!(play("echo hi; sleep 2; echo $WHO && exit 3", 9_999), "0:hi | 2000:world | 2000=exit 3");
        assert_eq!(play("false || echo saved; true && false", 9_999), "0:saved | 0=exit 1");
        assert_eq!(play("false && echo no; echo $?", 9_999), "0:1 | 0=exit 0");
        assert_eq!(play("if [ a = b ]; then exit 1; elif true; then echo b; else echo c; fi", 9), "0:b | 0=exit 0");
        assert_eq!(play("! false; echo -n a; echo b; printf '%s-%d\\n' x 7", 9), "0:ab | 0:x-7 | 0=exit 0");
    }

    #[test]
    fn loops_and_counters() {
        assert_eq!(play("for i in a b; do echo $i; sleep 1; done", 9_999), "0:a | 1000:b | 2000=exit 0");
        assert_eq!(play("for i in $(seq 1 3); do if [ $i = 2 ]; then break; fi; echo $i; done", 9), "0:1 | 0=exit 0");
        assert_eq!(play("i=0; while [ $i -lt 3 ]; do i=$((i+1)); done; exit $i", 9), "0=exit 3");
        assert_eq!(play("i=0; until [ $i -ge 2 ]; do echo $i; i=$((i+1)); done", 9), "0:0 | 0:1 | 0=exit 0");
        assert_eq!(
            play("i=0; while true; do echo $i; i=$((i+1)); sleep 1; done", 2_500),
            "0:0 | 1000:1 | 2000:2 | 3000=later"
        );
        assert_eq!(play("while true; do :; done", 10), "forever");
    }

    #[test]
    fn a_long_running_counter_is_read_at_its_end() {
        let day = 86_400_000;
        let text = play("i=0; while true; do echo \"$i: $(date)\"; i=$((i+1)); sleep 1; done", day);
        let lines: Vec<_> = text.split(" | ").collect();
        assert!(lines.len() as u64 <= KEPT_ITERATIONS + 4, "{}", lines.len());
        assert_eq!(lines[lines.len() - 2], "86400000:86400: Wed Nov 15 22:13:20 UTC 2023");
    }

    #[test]
    fn programs_and_background() {
        assert_eq!(play("sleep infinity", 9), "forever");
        assert_eq!(play("tail -f /dev/null", 9), "forever");
        assert_eq!(play("/app/server --port 80", 9), "forever");
        assert_eq!(play("/app/migrate; echo done", 999), "200:done | 200=exit 0");
        assert_eq!(play("sleep 3 & echo now; wait; echo then", 9_999), "0:now | 3000:then | 3000=exit 0");
        assert_eq!(play("echo out > /tmp/f; cat /tmp/f && rm /tmp/f; cat /tmp/f; echo $?", 9), "0:1 | 0=exit 0");
        assert_eq!(play("echo a | tee /tmp/x; echo b | grep c", 999), "0:a | 200=exit 0");
    }

    #[test]
    fn hostile_scripts_end() {
        assert_eq!(play("i=0; while [ $i -lt 999999999 ]; do i=$((i+1)); done", 9), "forever");
        assert_eq!(play("echo $((9223372036854775807 + 1)) $((1/0)) $((((((((1))))))))", 9), "0:0 0 1 | 0=exit 0");
        assert_eq!(seconds(&["1e400".into()]), Some(Millis::MAX));
        assert_eq!(seconds(&["1.5m".into(), "x".into()]), Some(90_000));
    }
}
