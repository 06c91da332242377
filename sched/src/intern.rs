//! Strings as numbers, counted so that what no node carries any more is forgotten.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// A string's number, valid while somebody holds it.
pub(crate) type Symbol = u32;

/// The table. Bounded by what its holders hold.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    symbols: FxHashMap<Arc<str>, Symbol>,
    texts: Vec<(Arc<str>, u32)>,
    vacant: Vec<Symbol>,
}

impl Interner {
    /// The number of `text`, held once more.
    pub fn hold(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.symbols.get(text) {
            self.texts[symbol as usize].1 += 1;
            return symbol;
        }
        let text: Arc<str> = text.into();
        let symbol = match self.vacant.pop() {
            Some(symbol) => {
                self.texts[symbol as usize] = (text.clone(), 1);
                symbol
            }
            None => {
                self.texts.push((text.clone(), 1));
                (self.texts.len() - 1) as Symbol
            }
        };
        self.symbols.insert(text, symbol);
        symbol
    }

    /// Gives one hold back.
    pub fn drop_hold(&mut self, symbol: Symbol) {
        let (text, holds) = &mut self.texts[symbol as usize];
        *holds -= 1;
        if *holds == 0 {
            self.symbols.remove(text);
            self.vacant.push(symbol);
        }
    }

    /// The number of `text`, if anybody holds it.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.symbols.get(text).copied()
    }

    /// How many holds there are on a number: with one hold per node, the number of nodes.
    pub fn holds(&self, symbol: Symbol) -> u32 {
        self.texts[symbol as usize].1
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The string behind a number that is held.
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_forgotten_with_its_last_hold() {
        let mut interner = Interner::default();
        let zone = interner.hold("zone");
        assert_eq!(interner.hold("zone"), zone);
        interner.drop_hold(zone);
        assert_eq!(interner.find("zone"), Some(zone));
        interner.drop_hold(zone);
        assert_eq!(interner.find("zone"), None);
        let disk = interner.hold("disk");
        assert_eq!((disk, interner.text(disk)), (zone, "disk"));
    }
}
