//! A node's keys, one after the other in one allocation: no pointer, count or allocation per key.

use super::warm::touch;

#[derive(Clone, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends; it starts where the one before it ends.
    ends: Vec<u32>,
}

impl Keys {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Reads all of them, a part of each line.
    pub fn touch(&self) {
        touch(&self.bytes);
        touch(&self.ends);
    }

    /// Total length of the keys.
    pub fn weight(&self) -> usize {
        self.bytes.len()
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index] as usize]
    }

    /// A copy that takes one more key of `room` bytes without growing; without room it is as small as can be.
    pub fn copy(&self, room: Option<usize>) -> Keys {
        let mut bytes = Vec::with_capacity(self.bytes.len() + room.unwrap_or(0));
        bytes.extend_from_slice(&self.bytes);
        let mut ends = Vec::with_capacity(self.ends.len() + usize::from(room.is_some()));
        ends.extend_from_slice(&self.ends);
        Keys { bytes, ends }
    }

    /// Number of keys before `key`.
    pub fn rank(&self, key: &[u8]) -> usize {
        self.partition(|other| other < key)
    }

    /// Number of keys not behind `key`.
    pub fn upper(&self, key: &[u8]) -> usize {
        self.partition(|other| other <= key)
    }

    fn partition(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if before(self.get(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    pub fn insert(&mut self, index: usize, key: &[u8]) {
        let start = self.start(index);
        self.bytes.reserve_exact(key.len());
        self.bytes.extend_from_slice(key);
        self.bytes[start..].rotate_right(key.len());
        self.ends.insert(index, start as u32);
        for end in &mut self.ends[index..] {
            *end += key.len() as u32;
        }
    }

    pub fn remove(&mut self, index: usize) {
        let (start, end) = (self.start(index), self.ends[index] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(index);
        for after in &mut self.ends[index..] {
            *after -= (end - start) as u32;
        }
    }

    /// Replaces a key.
    pub fn set(&mut self, index: usize, key: &[u8]) {
        self.remove(index);
        self.insert(index, key);
    }

    /// Takes away the keys from `index` on.
    pub fn split_off(&mut self, index: usize) -> Keys {
        let start = self.start(index);
        let bytes = self.bytes.split_off(start);
        let ends = self.ends.split_off(index).into_iter().map(|end| end - start as u32).collect();
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        Keys { bytes, ends }
    }

    /// Adds the keys of `other` behind its own.
    pub fn append(&mut self, other: &Keys) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn like_a_vector_of_keys(steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0usize..6), 1..60)) {
            let mut keys = Keys::default();
            let mut model: Vec<Vec<u8>> = Vec::new();
            for (kind, place, length) in steps {
                let index = place as usize % (model.len() + 1);
                let key = vec![kind; length];
                match kind % 4 {
                    0 | 1 => {
                        keys.insert(index, &key);
                        model.insert(index, key);
                    }
                    2 if index < model.len() => {
                        keys.remove(index);
                        model.remove(index);
                    }
                    _ => {
                        let tail = keys.split_off(index);
                        let copy = keys.copy(Some(3));
                        keys = copy;
                        keys.append(&tail);
                    }
                }
                let now: Vec<Vec<u8>> = (0..keys.len()).map(|index| keys.get(index).to_vec()).collect();
                prop_assert_eq!(&now, &model);
            }
        }
    }
}
