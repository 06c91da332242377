//! Deterministic pseudo-randomness: everything that looks random is a function of the seed and a name.

use std::fmt::Write;

/// A well-mixed number from a seed and a text (FNV-1a, finished with splitmix64).
pub(crate) fn mix(seed: u64, text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    finish(hash)
}

fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Appends 64 hexadecimal digits, the form of a SHA-256 digest.
pub(crate) fn hex64(seed: u64, out: &mut String) {
    for word in 0..4u64 {
        let part = finish(seed ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Writing to a String cannot fail.
        let _ = write!(out, "{part:016x}");
    }
}

/// A number in `low..=high`, even over the range.
pub(crate) fn between(hash: u64, low: u64, high: u64) -> u64 {
    low + hash % (high.saturating_sub(low) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_differ_by_seed_and_text() {
        assert_eq!(mix(1, "nginx"), mix(1, "nginx"));
        assert_ne!(mix(1, "nginx"), mix(2, "nginx"));
        assert_ne!(mix(1, "nginx"), mix(1, "nginy"));
        let mut text = String::new();
        hex64(7, &mut text);
        assert_eq!(text.len(), 64);
        assert!((50..=300).contains(&between(mix(3, "x"), 50, 300)));
        assert_eq!(between(9, 5, 5), 5);
    }
}
