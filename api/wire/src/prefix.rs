//! Prefixes as etcd's ranges.

use bytes::Bytes;

/// The end of a range without an upper bound, as etcd encodes it: one zero byte.
pub const UNBOUNDED: Bytes = Bytes::from_static(b"\0");

/// The exclusive end of the range of all keys that start with `prefix`, in etcd's encoding.
///
/// That is the prefix with its last byte below 255 raised by one and what follows cut off; where there is no such
/// byte (an empty prefix, or one of 255s only), every key from the prefix on: [`UNBOUNDED`].
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&byte| byte < u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
        None => UNBOUNDED,
    }
}

/// Start and end of the range of all keys that start with `prefix`, in etcd's encoding.
///
/// A range may not start with an empty key there, so the empty prefix starts at the smallest key, one zero byte.
pub fn prefix_range(prefix: &Bytes) -> (Bytes, Bytes) {
    let start = if prefix.is_empty() { UNBOUNDED } else { prefix.clone() };
    (start, prefix_end(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_the_smallest_key_above_all_with_the_prefix() {
        assert_eq!(prefix_end(b"/registry/pods/"), &b"/registry/pods0"[..]);
        assert_eq!(prefix_end(b"a\xff\xff"), &b"b"[..]);
        assert_eq!(prefix_end(b"\xff\xff"), UNBOUNDED);
        assert_eq!(prefix_range(&Bytes::new()), (UNBOUNDED, UNBOUNDED));
    }
}
