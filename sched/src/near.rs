//! A map by numbers that are given out one after another.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map in which numbers near each other lie near each other, so that whoever goes through them in order reads memory in
/// order. Numbers that are far apart by multiples of the map's size would meet in one place: it is not for numbers that
/// somebody else chooses.
pub(crate) type NearMap<K, V> = HashMap<K, V, BuildHasherDefault<NearHasher>>;

/// Of one number.
#[derive(Debug, Default)]
pub(crate) struct NearHasher(u64);

impl Hasher for NearHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(8) ^ number;
    }

    fn finish(&self) -> u64 {
        // The lowest bits choose the place; the highest seven tell neighbours apart.
        const HIGHEST: u64 = 0x7f << 57;
        self.0 & !HIGHEST | self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) & HIGHEST
    }
}
