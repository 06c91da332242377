//! Keys and values.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

/// What every key of a benchmark begins with.
pub const ROOT: &str = "/registry/bench/";

/// Length of [`key`], in bytes: that of a pod's key in a small namespace.
pub const KEY_LENGTH: usize = 48;

/// The finaliser of SplitMix64: distinct numbers stay distinct, neighbours end far apart.
pub fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A key of [`KEY_LENGTH`] bytes under `folder`; keys are ordered by their numbers.
pub fn key(folder: &str, number: u64) -> Bytes {
    let start = format!("{ROOT}{folder}/");
    let digits = KEY_LENGTH.saturating_sub(start.len());
    Bytes::from(format!("{start}{number:0digits$}"))
}

/// Everything under `folder`: the first key and the first one behind.
pub fn range(folder: &str) -> (Bytes, Bytes) {
    // '0' is the character after '/'.
    (format!("{ROOT}{folder}/").into(), format!("{ROOT}{folder}0").into())
}

/// The moment from which stamps count.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Bytes that a stamp takes at the start of a value.
pub const STAMP: usize = 8;

/// A moment as nanoseconds since the first use of a stamp in this process; 0 for one before.
pub fn stamp(moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX)
}

/// [`value`], begun with the moment at which it was due to be written; at least [`STAMP`] bytes.
pub fn stamped(number: u64, length: usize, due: Instant) -> Bytes {
    let mut value = BytesMut::from(value(number, length.max(STAMP)));
    value[..STAMP].copy_from_slice(&stamp(due).to_le_bytes());
    value.freeze()
}

/// How long before `now`, a [`stamp`], a [`stamped`] value was due; `None` for one that is too short to have a stamp.
pub fn age(value: &[u8], now: u64) -> Option<Duration> {
    let written = value.get(..STAMP)?.try_into().ok().map(u64::from_le_bytes)?;
    Some(Duration::from_nanos(now.saturating_sub(written)))
}

/// `length` bytes that do not compress, as encrypted secrets would not, and that differ for each number.
pub fn value(number: u64, length: usize) -> Bytes {
    let mut value = BytesMut::with_capacity(length + 7);
    let seed = number.wrapping_mul(1 << 20);
    for at in 0..length.div_ceil(8) as u64 {
        value.put_u64_le(scatter(seed + at));
    }
    value.truncate(length);
    value.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_length_and_their_numbers_order() {
        let (start, end) = range("put");
        for number in [0, 1, 9, 10, 999_999, 100_000_000] {
            let (this, next) = (key("put", number), key("put", number + 1));
            assert_eq!(this.len(), KEY_LENGTH);
            assert!(this < next && start <= this && next < end, "{number}");
        }
        assert!(!(start..end).contains(&key("putter", 0)));
    }

    #[test]
    fn a_stamp_tells_when_a_value_was_due() {
        let due = Instant::now() + Duration::from_secs(1);
        let value = stamped(3, 64, due);
        assert_eq!(value.len(), 64);
        assert_eq!(age(&value, stamp(due + Duration::from_millis(7))), Some(Duration::from_millis(7)));
        assert_eq!(age(&value, stamp(due - Duration::from_millis(7))), Some(Duration::ZERO));
        assert_eq!(stamped(3, 0, due).len(), STAMP);
        assert_eq!(age(&value[..7], stamp(due)), None);
    }

    #[test]
    fn values_have_their_length_and_differ() {
        for length in [0, 1, 8, 1_023, 1_024] {
            assert_eq!(value(7, length).len(), length);
        }
        assert_ne!(value(1, 256), value(2, 256));
        assert_eq!(value(1, 256), value(1, 256));
    }
}
