//! Selectors of devices: compiled once for each expression, asked once for each device.
//!
//! An expression is known for as long as a class, or a claim without an allocation, has it. What it said of a device is
//! two bits in a column by the device's row, set by whichever worker asks first: both would set the same.

use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use crate::device::{Device, DeviceSelector, SelectorLanguage};
use crate::sync::{AtomicU32, AtomicUsize, Ordering};

/// Words that all columns may have together (4 bytes each). Beyond that answers are not kept.
const MAX_WORDS: usize = 16 << 20;
/// Devices per word: two bits each.
const PER_WORD: usize = 16;
/// A column has room for at least this many devices.
const MIN_ROWS: usize = 1 << 10;

/// Why an expression says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Of any device.
    Compile(String),
    /// Of this device.
    Run(String),
}

/// A column of answers.
type Column = Option<Box<[AtomicU32]>>;

#[derive(Debug)]
struct Selector {
    compiled: Result<Box<dyn DeviceSelector>, String>,
    holds: u32,
    answers: OnceLock<Column>,
}

/// All expressions.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    language: Option<Arc<dyn SelectorLanguage>>,
    selectors: FxHashMap<Arc<str>, Selector>,
    /// Rows that columns are made for.
    rows: usize,
    words: AtomicUsize,
}

impl Memo {
    /// Sets the language, before there is any expression.
    pub fn speak(&mut self, language: Arc<dyn SelectorLanguage>) {
        self.language = Some(language);
    }

    /// Makes sure of an expression.
    pub fn hold(&mut self, expression: &Arc<str>) {
        let language = &self.language;
        let compile = || match language {
            Some(language) => language.compile(expression),
            None => Err("no language for selectors is set".to_string()),
        };
        let make = || Selector { compiled: compile(), holds: 0, answers: OnceLock::new() };
        self.selectors.entry(expression.clone()).or_insert_with(make).holds += 1;
    }

    /// Gives a hold back.
    pub fn drop_hold(&mut self, expression: &Arc<str>) {
        let Some(selector) = self.selectors.get_mut(expression) else { return };
        selector.holds -= 1;
        if selector.holds == 0 {
            self.words.fetch_sub(words(&selector.answers), Ordering::Relaxed);
            self.selectors.remove(expression);
        }
    }

    /// Makes room for devices in rows below `rows`.
    pub fn grow(&mut self, rows: usize) {
        if rows > self.rows {
            self.rows = rows.next_power_of_two().max(MIN_ROWS);
            self.selectors.values_mut().for_each(|selector| selector.answers = OnceLock::new());
            self.words.store(0, Ordering::Relaxed);
        }
    }

    /// Forgets what was said of the device in a row: another one is there now.
    pub fn forget(&mut self, row: u32) {
        let (word, shift) = place(row);
        for selector in self.selectors.values() {
            if let Some(Some(column)) = selector.answers.get() {
                column[word].fetch_and(!(3 << shift), Ordering::Relaxed);
            }
        }
    }

    /// Whether an expression holds for a device. What is said of one is kept for its row, if it has one.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn matches(&self, expression: &str, row: Option<u32>, driver: &str, device: &Device) -> Result<bool, Fault> {
        let Some(selector) = self.selectors.get(expression) else { return Err(Fault::Compile("not known".into())) };
        let compiled = match &selector.compiled {
            Ok(compiled) => compiled,
            Err(why) => return Err(Fault::Compile(why.clone())),
        };
        let kept = row.and_then(|row| {
            let (word, shift) = place(row);
            let column = selector.answers.get_or_init(|| self.column()).as_ref();
            column.map(|column| (&column[word], shift))
        });
        // Known, and what.
        if let Some(bits) = kept.map(|(word, shift)| word.load(Ordering::Relaxed) >> shift)
            && bits & 1 != 0
        {
            return Ok(bits & 2 != 0);
        }
        let answer = compiled.matches(driver, device).map_err(Fault::Run)?;
        if let Some((word, shift)) = kept {
            word.fetch_or((1 | u32::from(answer) << 1) << shift, Ordering::Relaxed);
        }
        Ok(answer)
    }

    fn column(&self) -> Column {
        let words = self.rows.div_ceil(PER_WORD);
        if self.words.fetch_add(words, Ordering::Relaxed) + words > MAX_WORDS {
            self.words.fetch_sub(words, Ordering::Relaxed);
            return None;
        }
        Some((0..words).map(|_| AtomicU32::new(0)).collect())
    }

    /// Number of expressions known.
    pub fn len(&self) -> usize {
        self.selectors.len()
    }
}

fn words(answers: &OnceLock<Column>) -> usize {
    answers.get().and_then(Option::as_ref).map_or(0, |column| column.len())
}

/// Word and shift of a row's bits.
fn place(row: u32) -> (usize, u32) {
    (row as usize / PER_WORD, row % PER_WORD as u32 * 2)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Counts how often it is asked; an expression is the name of the device that it holds for.
    #[derive(Debug, Default)]
    struct Names(Arc<AtomicUsize>);

    #[derive(Debug)]
    struct Name(String, Arc<AtomicUsize>);

    impl SelectorLanguage for Names {
        fn compile(&self, expression: &str) -> Result<Box<dyn DeviceSelector>, String> {
            if expression.is_empty() {
                return Err("empty".into());
            }
            Ok(Box::new(Name(expression.into(), self.0.clone())))
        }
    }

    impl DeviceSelector for Name {
        fn matches(&self, _: &str, device: &Device) -> Result<bool, String> {
            self.1.fetch_add(1, Ordering::Relaxed);
            if &*device.name == "broken" { Err("no such key".into()) } else { Ok(*device.name == *self.0) }
        }
    }

    fn named(name: &str) -> Device {
        Device { name: name.into(), ..Device::default() }
    }

    #[test]
    fn a_device_is_asked_about_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut memo = Memo::default();
        memo.speak(Arc::new(Names(asked.clone())));
        memo.grow(20);
        let (a, b, none) = ("a".into(), "b".into(), "".into());
        memo.hold(&a);
        memo.hold(&a);
        memo.hold(&b);
        memo.hold(&none);
        for _ in 0..3 {
            assert_eq!(memo.matches("a", Some(17), "d", &named("a")), Ok(true));
            assert_eq!(memo.matches("a", Some(16), "d", &named("x")), Ok(false));
            assert_eq!(memo.matches("b", Some(17), "d", &named("a")), Ok(false));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        memo.forget(17);
        assert_eq!(memo.matches("a", Some(17), "d", &named("z")), Ok(false), "another device in its place");
        assert_eq!(memo.matches("a", Some(16), "d", &named("x")), Ok(false));
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        assert_eq!(memo.matches("a", None, "d", &named("a")), Ok(true));
        assert_eq!(asked.load(Ordering::Relaxed), 5);
        assert_eq!(memo.matches("a", Some(3), "d", &named("broken")), Err(Fault::Run("no such key".into())));
        assert_eq!(memo.matches("", Some(3), "d", &named("a")), Err(Fault::Compile("empty".into())));
        memo.drop_hold(&a);
        assert_eq!(memo.matches("a", Some(17), "d", &named("z")), Ok(false));
        for expression in [&a, &b, &none] {
            memo.drop_hold(expression);
        }
        assert_eq!(memo.len(), 0);
        assert_eq!(memo.words.load(Ordering::Relaxed), 0);
    }
}
