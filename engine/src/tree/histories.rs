//! The older writes of a leaf's keys. Copies of a leaf share all of it until an array is made anew or a key comes or goes
//! among keys with history, so that copying a leaf counts one reference and not one for each key.

use std::sync::Arc;

use crate::history::Older;

/// By the key's index; nothing at all where no key of the leaf has a history.
#[derive(Clone, Default)]
pub(super) struct Histories(Option<Arc<Vec<Option<Older>>>>);

impl Histories {
    pub fn get(&self, index: usize) -> Option<&Older> {
        self.0.as_ref()?[index].as_ref()
    }

    fn own(histories: &mut Arc<Vec<Option<Older>>>) -> &mut Vec<Option<Older>> {
        if Arc::get_mut(histories).is_none() {
            *histories = Arc::new(histories.to_vec());
        }
        Arc::get_mut(histories).expect("nobody else can hold what was just copied or found unshared")
    }

    /// Replaces the history of a key; `keys` is their number.
    pub fn set(&mut self, index: usize, older: Option<Older>, keys: usize) {
        if self.0.is_none() && older.is_none() {
            return;
        }
        let histories = self.0.get_or_insert_with(|| Arc::new(vec![None; keys]));
        Self::own(histories)[index] = older;
    }

    /// A key without history comes.
    pub fn insert(&mut self, index: usize) {
        if let Some(histories) = &mut self.0 {
            Self::own(histories).insert(index, None);
        }
    }

    /// A key goes.
    pub fn remove(&mut self, index: usize) {
        if let Some(histories) = &mut self.0 {
            Self::own(histories).remove(index);
        }
    }

    /// Takes away the histories from `index` on.
    pub fn split_off(&mut self, index: usize) -> Histories {
        let Some(histories) = &mut self.0 else { return Histories::default() };
        let own = Self::own(histories);
        let right = own.split_off(index);
        own.shrink_to_fit();
        Histories::of(right)
    }

    /// How many keys it knows of, if of any.
    #[cfg(test)]
    pub fn len(&self) -> Option<usize> {
        self.0.as_ref().map(|histories| histories.len())
    }

    fn of(histories: Vec<Option<Older>>) -> Histories {
        Histories(histories.iter().any(Option::is_some).then(|| Arc::new(histories)))
    }

    /// Adds those of `other`, which has `added` keys, behind its own of `keys` keys.
    pub fn append(&mut self, keys: usize, other: &Histories, added: usize) {
        let each = |histories: &Histories, keys| match &histories.0 {
            Some(histories) => histories.to_vec(),
            None => vec![None; keys],
        };
        *self = Histories::of([each(self, keys), each(other, added)].concat());
    }
}
