//! Objects in numbered places, so that queues and timers hold numbers only.

use crate::queue::Slot;

/// Objects in numbered places; a place is given anew under another generation.
pub(crate) struct Places<T> {
    items: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Places<T> {
    /// No objects.
    pub fn new() -> Places<T> {
        Places { items: Vec::new(), free: Vec::new() }
    }

    /// The place that the next object gets.
    pub fn next(&self) -> Slot {
        let index = self.free.last().copied().unwrap_or(self.items.len() as u32);
        Slot { index, generation: self.items.get(index as usize).map_or(0, |(generation, _)| *generation) }
    }

    pub fn insert(&mut self, item: T) -> Slot {
        let slot = self.next();
        match self.free.pop() {
            Some(index) => self.items[index as usize].1 = Some(item),
            None => self.items.push((0, Some(item))),
        }
        slot
    }

    /// The object in a place, whatever its generation.
    pub fn at(&self, index: u32) -> Option<&T> {
        self.items.get(index as usize)?.1.as_ref()
    }

    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.items.get_mut(index as usize)?.1.as_mut()
    }

    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.items.get(slot.index as usize).filter(|(generation, _)| *generation == slot.generation)?.1.as_ref()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.items.get_mut(slot.index as usize).filter(|(generation, _)| *generation == slot.generation)?.1.as_mut()
    }

    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let (generation, item) = self.items.get_mut(slot.index as usize)?;
        if *generation != slot.generation {
            return None;
        }
        let item = item.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot.index);
        Some(item)
    }

    /// All objects, in order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.items.iter().enumerate().filter_map(|(index, (generation, item))| {
            Some((Slot { index: index as u32, generation: *generation }, item.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_given_anew_is_not_its_former_owners() {
        let mut places = Places::new();
        let first = places.insert('a');
        assert_eq!(places.remove(first), Some('a'));
        let second = places.insert('b');
        assert_eq!((second.index, places.get(first), places.get(second)), (first.index, None, Some(&'b')));
        assert_eq!(places.remove(first), None);
        assert_eq!(places.iter().count(), 1);
    }
}
