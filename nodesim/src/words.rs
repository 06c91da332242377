//! Cuts a shell script into words and operators, as POSIX's token recognition does for the part that is simulated.

/// A piece of a word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Literal text.
    Text(Box<str>),
    /// `$name`, `${name}` or `${name:-fallback}`.
    Var(Box<str>, Box<str>),
    /// `$(command)` or backquotes.
    Command(Box<str>),
    /// `$((expression))`.
    Arithmetic(Box<str>),
}

/// One word: its pieces, and whether an expansion in it is split at blanks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Word {
    pub parts: Vec<Part>,
    pub quoted: bool,
}

impl Word {
    /// The word's text if nothing in it has to be expanded.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// What a script is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Word(Word),
    /// `;`, a line's end, `&`, `&&`, `||`, `|`, `(`, `)`.
    Operator(&'static str),
    /// `>` and `>>` (true), or `<` (false); the next word is the file.
    Redirect(bool),
}

/// Longest script that is read, in bytes; a longer one counts as not understood.
const MAX_SCRIPT: usize = 64 << 10;

/// The tokens of a script. `None` if it is not understood (here-documents, unbalanced quotes).
pub(crate) fn tokens(script: &str) -> Option<Vec<Token>> {
    if script.len() > MAX_SCRIPT {
        return None;
    }
    let mut lexer =
        Lexer { chars: script.chars().collect(), at: 0, tokens: Vec::new(), word: None, text: String::new() };
    lexer.run()?;
    Some(lexer.tokens)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    tokens: Vec<Token>,
    word: Option<Word>,
    text: String,
}

impl Lexer {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn run(&mut self) -> Option<()> {
        while let Some(c) = self.bump() {
            match c {
                ' ' | '\t' | '\r' => self.end_word(),
                '\n' => self.operator("\n"),
                '#' if self.word.is_none() => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                ';' => {
                    // `;;` ends a case branch, which is not simulated.
                    if self.eat(';') {
                        return None;
                    }
                    self.operator(";");
                }
                '&' if self.eat('&') => self.operator("&&"),
                '&' if self.eat('>') => self.redirect(true),
                '&' => self.operator("&"),
                '|' if self.eat('|') => self.operator("||"),
                '|' => self.operator("|"),
                '(' => self.operator("("),
                ')' => self.operator(")"),
                '>' | '<' => self.angle(c)?,
                '\'' => {
                    self.quote();
                    loop {
                        match self.bump()? {
                            '\'' => break,
                            c => self.text.push(c),
                        }
                    }
                }
                '"' => {
                    self.quote();
                    loop {
                        match self.bump()? {
                            '"' => break,
                            c => self.piece(c, true)?,
                        }
                    }
                }
                c => {
                    self.word.get_or_insert_default();
                    self.piece(c, false)?;
                }
            }
        }
        self.end_word();
        Some(())
    }

    /// `>`, `>>`, `<`, with the file descriptor before it and `&n` behind it.
    fn angle(&mut self, c: char) -> Option<()> {
        let descriptor = self.word.as_ref().is_some_and(|word| word.parts.is_empty() && !word.quoted)
            && !self.text.is_empty()
            && self.text.chars().all(|c| c.is_ascii_digit());
        let stderr = descriptor && self.text != "1";
        if descriptor {
            self.text.clear();
            self.word = None;
        }
        self.end_word();
        if c == '<' {
            // A here-document is not simulated.
            if self.eat('<') {
                return None;
            }
            self.redirect(false);
            return Some(());
        }
        self.eat('>');
        if self.eat('&') {
            while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '-') {
                self.at += 1;
            }
            return Some(());
        }
        // Standard error of the simulated commands is empty: where it goes does not matter.
        self.redirect(!stderr);
        Some(())
    }

    fn redirect(&mut self, out: bool) {
        self.end_word();
        self.tokens.push(Token::Redirect(out));
    }

    fn operator(&mut self, operator: &'static str) {
        self.end_word();
        self.tokens.push(Token::Operator(operator));
    }

    fn quote(&mut self) {
        self.word.get_or_insert_default().quoted = true;
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text).into();
            self.word.get_or_insert_default().parts.push(Part::Text(text));
        }
    }

    fn end_word(&mut self) {
        self.flush();
        if let Some(word) = self.word.take() {
            self.tokens.push(Token::Word(word));
        }
    }

    fn part(&mut self, part: Part) {
        self.flush();
        self.word.get_or_insert_default().parts.push(part);
    }

    /// One character of a word, outside single quotes.
    fn piece(&mut self, c: char, in_quotes: bool) -> Option<()> {
        match c {
            '\\' => match self.bump() {
                Some('\n') => {}
                Some(next) if in_quotes && !matches!(next, '$' | '`' | '"' | '\\') => {
                    self.text.push('\\');
                    self.text.push(next);
                }
                Some(next) => self.text.push(next),
                None => self.text.push('\\'),
            },
            '`' => {
                let mut inner = String::new();
                loop {
                    match self.bump()? {
                        '`' => break,
                        c => inner.push(c),
                    }
                }
                self.part(Part::Command(inner.into()));
            }
            '$' => self.dollar()?,
            c => self.text.push(c),
        }
        Some(())
    }

    fn dollar(&mut self) -> Option<()> {
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let arithmetic = self.eat('(');
                let mut inner = String::new();
                let mut depth = 1;
                loop {
                    let c = self.bump()?;
                    match c {
                        '(' => depth += 1,
                        ')' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                    inner.push(c);
                }
                if arithmetic && !self.eat(')') {
                    return None;
                }
                self.part(if arithmetic { Part::Arithmetic(inner.into()) } else { Part::Command(inner.into()) });
            }
            Some('{') => {
                self.at += 1;
                let mut inner = String::new();
                loop {
                    match self.bump()? {
                        '}' => break,
                        c => inner.push(c),
                    }
                }
                let (name, fallback) = inner.split_once(":-").or(inner.split_once('-')).unwrap_or((&inner, ""));
                if !is_name(name) {
                    return None;
                }
                self.part(Part::Var(name.into(), fallback.into()));
            }
            Some(c @ ('?' | '$' | '#' | '@' | '*' | '!' | '0'..='9')) => {
                self.at += 1;
                self.part(Part::Var(c.to_string().into(), "".into()));
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let mut name = String::new();
                while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
                self.part(Part::Var(name.into(), "".into()));
            }
            _ => self.text.push('$'),
        }
        Some(())
    }
}

/// Whether a text can name a shell variable.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(script: &str) -> String {
        let show = |token: &Token| match token {
            Token::Word(word) => format!("{:?}", word.literal().unwrap_or("$")),
            Token::Operator(operator) => operator.escape_default().to_string(),
            Token::Redirect(out) => if *out { ">" } else { "<" }.to_string(),
        };
        tokens(script).map_or("?".into(), |tokens| tokens.iter().map(show).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn words_operators_and_quotes() {
        assert_eq!(
            shape("echo 'a  b' \"c\"d;true&&false || x # note\ny"),
            r#""echo" "a  b" "cd" ; "true" && "false" || "x" \n "y""#
        );
        assert_eq!(
            shape("echo hi >/tmp/x 2>&1; cat < f 2>/dev/null"),
            r#""echo" "hi" > "/tmp/x" ; "cat" < "f" < "/dev/null""#
        );
        assert_eq!(shape("while true; do sleep 1; done &"), r#""while" "true" ; "do" "sleep" "1" ; "done" &"#);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for script in ["cat <<EOF", "echo 'open", "case x in a) ;; esac", "echo ${x%y}", "echo $(date"] {
            assert_eq!(shape(script), "?", "{script}");
        }
    }

    #[test]
    fn expansions_are_parts() {
        let tokens = tokens("\"n=$((i + 1)) $USER ${A:-b} $(date)\"").unwrap();
        let [Token::Word(word)] = tokens.as_slice() else { panic!("{tokens:?}") };
        assert!(word.quoted);
        let parts: Vec<_> = word.parts.iter().filter(|part| !matches!(part, Part::Text(_))).collect();
        assert_eq!(
            parts,
            [
                &Part::Arithmetic("i + 1".into()),
                &Part::Var("USER".into(), "".into()),
                &Part::Var("A".into(), "b".into()),
                &Part::Command("date".into()),
            ]
        );
    }
}
