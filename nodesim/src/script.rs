//! Compiles a shell script into jumps and simple commands, so that a run of it can stop and go on at any moment.

use crate::words::{Token, Word, is_name, tokens};

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// A command with its words; `shown` is false where its output goes to a file or into a pipe.
    Run {
        words: Vec<Word>,
        shown: bool,
        target: Option<Word>,
        last: bool,
    },
    /// `name=value`.
    Assign(Box<str>, Word),
    /// `command &`: its time does not pass here, but `wait` waits for it.
    Background(Vec<Word>),
    /// A compound command in the background: taken to run for ever.
    Service,
    Jump(usize),
    /// Jumps if the last command succeeded (true) or failed.
    JumpIf(bool, usize),
    /// Jumps back to the head of a loop; `endless` if nothing in the loop can leave it.
    Loop {
        head: usize,
        endless: bool,
    },
    /// Turns the last status around.
    Not,
    /// Begins a `for` over words.
    ForStart(Vec<Word>),
    /// Takes the next word of the innermost `for`, or jumps.
    ForNext {
        variable: Box<str>,
        end: usize,
    },
    /// Leaves the innermost `for`.
    ForEnd,
}

/// A script that is understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Script {
    pub ops: Box<[Op]>,
}

/// Compiles a script. `None` if it uses what is not simulated (functions, case, here-documents, …).
pub(crate) fn compile(text: &str) -> Option<Script> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, ops: Vec::new(), loops: Vec::new(), depth: 0, piped: 0 };
    parser.list(&[])?;
    if parser.at < parser.tokens.len() {
        return None;
    }
    // A filter at the end of a pipe is no server.
    let piped = parser.piped == parser.ops.len();
    if let Some(Op::Run { last, .. }) = parser.ops.last_mut() {
        *last = !piped;
    }
    Some(Script { ops: parser.ops.into() })
}

/// A loop being compiled.
struct Open {
    head: usize,
    is_for: bool,
    breaks: Vec<usize>,
    can_leave: bool,
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    ops: Vec<Op>,
    loops: Vec<Open>,
    depth: usize,
    /// Where the last pipe into a filter ends.
    piped: usize,
}

/// Deepest nesting.
const MAX_DEPTH: usize = 32;

impl Parser {
    fn operator(&self) -> Option<&'static str> {
        if let Some(Token::Operator(operator)) = self.tokens.get(self.at) { Some(operator) } else { None }
    }

    /// The next word if it can be a reserved one.
    fn reserved(&self) -> Option<&str> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) if !word.quoted => word.literal(),
            _ => None,
        }
    }

    fn expect(&mut self, reserved: &str) -> Option<()> {
        (self.reserved()? == reserved).then(|| self.at += 1)
    }

    fn skip_ends(&mut self) {
        while matches!(self.operator(), Some(";" | "\n")) {
            self.at += 1;
        }
    }

    /// Commands up to a reserved word of `until`, or a closing parenthesis.
    fn list(&mut self, until: &[&str]) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        self.skip_ends();
        while self.at < self.tokens.len() && self.operator() != Some(")") {
            if self.reserved().is_some_and(|word| until.contains(&word)) {
                break;
            }
            self.and_or()?;
            match self.operator() {
                Some(";" | "\n" | "&") => self.at += 1,
                Some(")") | None => {}
                _ => return None,
            }
            self.skip_ends();
        }
        self.depth -= 1;
        Some(())
    }

    fn and_or(&mut self) -> Option<()> {
        let start = self.ops.len();
        self.pipeline()?;
        let mut patches = Vec::new();
        while let Some(operator @ ("&&" | "||")) = self.operator() {
            self.at += 1;
            self.skip_ends();
            // What was skipped leaves the status as it is, so each operator looks at the last command that ran.
            for patch in patches.drain(..) {
                self.patch(patch, self.ops.len());
            }
            patches.push(self.ops.len());
            self.ops.push(Op::JumpIf(operator == "||", 0));
            self.pipeline()?;
        }
        for patch in patches {
            self.patch(patch, self.ops.len());
        }
        if self.operator() == Some("&") {
            let body = self.ops.split_off(start);
            match <[Op; 1]>::try_from(body) {
                Ok([Op::Run { words, .. }]) => self.ops.push(Op::Background(words)),
                _ => self.ops.push(Op::Service),
            }
        }
        Some(())
    }

    fn pipeline(&mut self) -> Option<()> {
        let negated = self.expect("!").is_some();
        let mut start = self.ops.len();
        self.command()?;
        while self.operator() == Some("|") {
            self.at += 1;
            self.skip_ends();
            let next = self.ops.len();
            self.command()?;
            // `tee` and `cat` show what they are given; other filters' output is not worked out.
            let passes = matches!(&self.ops[next..], [Op::Run { words, .. }]
                if matches!(words.first().and_then(Word::literal), Some("tee" | "cat")));
            if passes {
                self.ops.truncate(next);
            } else {
                for op in &mut self.ops[start..] {
                    if let Op::Run { shown, .. } = op {
                        *shown = false;
                    }
                }
                start = next;
                self.piped = self.ops.len();
            }
        }
        if negated {
            self.ops.push(Op::Not);
        }
        Some(())
    }

    fn command(&mut self) -> Option<()> {
        if self.operator() == Some("(") {
            self.at += 1;
            self.list(&[])?;
            return (self.operator() == Some(")")).then(|| self.at += 1);
        }
        match self.reserved() {
            Some("{") => {
                self.at += 1;
                self.list(&["}"])?;
                self.expect("}")
            }
            Some("if") => self.conditional(),
            Some("while") => self.repeat(true),
            Some("until") => self.repeat(false),
            Some("for") => self.for_each(),
            Some("case" | "function" | "then" | "do" | "done" | "fi" | "else" | "elif" | "}" | "in") => None,
            _ => self.simple(),
        }
    }

    fn conditional(&mut self) -> Option<()> {
        self.at += 1;
        let mut ends = Vec::new();
        loop {
            self.list(&["then"])?;
            self.expect("then")?;
            let skip = self.ops.len();
            self.ops.push(Op::JumpIf(false, 0));
            self.list(&["elif", "else", "fi"])?;
            ends.push(self.ops.len());
            self.ops.push(Op::Jump(0));
            self.patch(skip, self.ops.len());
            match self.reserved()? {
                "elif" => self.at += 1,
                "else" => {
                    self.at += 1;
                    self.list(&["fi"])?;
                    self.expect("fi")?;
                    break;
                }
                _ => {
                    self.expect("fi")?;
                    break;
                }
            }
        }
        for end in ends {
            self.patch(end, self.ops.len());
        }
        Some(())
    }

    fn repeat(&mut self, while_true: bool) -> Option<()> {
        self.at += 1;
        let head = self.ops.len();
        self.list(&["do"])?;
        let constant = matches!(&self.ops[head..], [Op::Run { words, .. }] if words.len() == 1
            && matches!(words[0].literal(), Some("true" | ":" | "/bin/true" | "false")));
        self.expect("do")?;
        let leave = self.ops.len();
        self.ops.push(Op::JumpIf(!while_true, 0));
        let open = self.body(head, false)?;
        self.ops.push(Op::Loop { head, endless: constant && !open.can_leave });
        for patch in open.breaks.into_iter().chain([leave]) {
            self.patch(patch, self.ops.len());
        }
        Some(())
    }

    fn for_each(&mut self) -> Option<()> {
        self.at += 1;
        let variable: Box<str> = self.reserved().filter(|name| is_name(name))?.into();
        self.at += 1;
        self.expect("in")?;
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            words.push(word.clone());
            self.at += 1;
        }
        self.skip_ends();
        self.expect("do")?;
        self.ops.push(Op::ForStart(words));
        let head = self.ops.len();
        self.ops.push(Op::ForNext { variable, end: 0 });
        let open = self.body(head, true)?;
        self.ops.push(Op::Jump(head));
        let end = self.ops.len();
        self.ops.push(Op::ForEnd);
        for patch in open.breaks.into_iter().chain([head]) {
            self.patch(patch, end);
        }
        Some(())
    }

    /// The commands between `do` and `done`.
    fn body(&mut self, head: usize, is_for: bool) -> Option<Open> {
        self.loops.push(Open { head, is_for, breaks: Vec::new(), can_leave: false });
        self.list(&["done"])?;
        self.expect("done")?;
        let open = self.loops.pop()?;
        if let Some(outer) = self.loops.last_mut() {
            outer.can_leave |= open.can_leave;
        }
        Some(open)
    }

    fn simple(&mut self) -> Option<()> {
        let mut words: Vec<Word> = Vec::new();
        let mut shown = true;
        let mut target = None;
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Word(word)) => words.push(word.clone()),
                Some(Token::Redirect(out)) => {
                    let out = *out;
                    self.at += 1;
                    let Some(Token::Word(file)) = self.tokens.get(self.at) else { return None };
                    if out {
                        let visible = matches!(file.literal(), Some("/dev/stdout" | "/dev/stderr" | "/proc/1/fd/1"));
                        shown = visible;
                        target = (!visible).then(|| file.clone());
                    }
                }
                // `name()` defines a function.
                Some(Token::Operator("(")) => return None,
                _ => break,
            }
            self.at += 1;
        }
        if words.is_empty() && target.is_none() {
            return None;
        }
        while let Some((name, value)) = words.first().and_then(assignment) {
            self.ops.push(Op::Assign(name, value));
            words.remove(0);
        }
        if words.is_empty() && target.is_none() {
            return Some(());
        }
        let innermost = self.loops.last_mut();
        match (words.first().and_then(Word::literal), innermost) {
            (Some("break"), Some(open)) => {
                open.breaks.push(self.ops.len());
                open.can_leave = true;
                self.ops.push(Op::Jump(0));
            }
            (Some("continue"), Some(open)) => {
                let (head, is_for) = (open.head, open.is_for);
                self.ops.push(if is_for { Op::Jump(head) } else { Op::Loop { head, endless: false } });
            }
            (name, innermost) => {
                if let (Some("exit" | "exec" | "return" | "kill"), Some(open)) = (name, innermost) {
                    open.can_leave = true;
                }
                self.ops.push(Op::Run { words, shown, target, last: false });
            }
        }
        Some(())
    }

    fn patch(&mut self, at: usize, to: usize) {
        match &mut self.ops[at] {
            Op::Jump(target) | Op::JumpIf(_, target) | Op::ForNext { end: target, .. } => *target = to,
            _ => {}
        }
    }
}

/// `name=value` as its two sides.
fn assignment(word: &Word) -> Option<(Box<str>, Word)> {
    let crate::words::Part::Text(first) = word.parts.first()? else { return None };
    let (name, rest) = first.split_once('=').filter(|(name, _)| is_name(name))?;
    let mut value = Word { parts: Vec::new(), quoted: true };
    if !rest.is_empty() {
        value.parts.push(crate::words::Part::Text(rest.into()));
    }
    value.parts.extend(word.parts[1..].iter().cloned());
    Some((name.into(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_loops_are_recognised() {
        let endless =
            |text: &str| compile(text).unwrap().ops.iter().any(|op| matches!(op, Op::Loop { endless: true, .. }));
        assert!(endless("while true; do echo hi; sleep 1; done"));
        assert!(endless("while :; do for x in a b; do echo $x; done; done"));
        assert!(!endless("while true; do sleep 1; exit 3; done"));
        assert!(!endless("while [ $i -lt 3 ]; do i=$((i+1)); done"));
        assert!(!endless("while true; do if test -f x; then break; fi; done"));
    }

    #[test]
    fn what_is_not_simulated_is_refused() {
        for text in ["f() { echo; }", "case $x in esac", "if true; then", "do echo", "echo; )", "while true; do"] {
            assert_eq!(compile(text), None, "{text}");
        }
        let deep = format!("{}true{}", "(".repeat(100), ")".repeat(100));
        assert_eq!(compile(&deep), None);
    }
}
