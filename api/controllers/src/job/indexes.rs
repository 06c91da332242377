//! Completion indexes as a Job's status writes them: `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Reads indexes below `limit`; what is malformed is left out.
pub(super) fn parse(text: &str, limit: u32) -> BTreeSet<u32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            indexes.extend(first..last.saturating_add(1).min(limit));
        }
    }
    indexes
}

/// Writes indexes, runs of three or more as ranges.
pub(super) fn format(indexes: &BTreeSet<u32>) -> String {
    let mut text = String::new();
    let mut sorted = indexes.iter().copied().peekable();
    while let Some(first) = sorted.next() {
        let mut last = first;
        while let Some(next) = sorted.next_if(|next| *next == last + 1) {
            last = next;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = match last - first {
            0 => write!(text, "{comma}{first}"),
            1 => write!(text, "{comma}{first},{last}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_ranges() {
        let indexes = [0, 1, 2, 5, 7, 8, 10].into();
        assert_eq!(format(&indexes), "0-2,5,7,8,10");
        assert_eq!(parse("0-2,5,junk,7,8,10,3000000-4294967295", 11), indexes);
        assert_eq!(parse("", 10), BTreeSet::new());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trips(indexes in prop::collection::btree_set(0u32..200, 0..100)) {
            prop_assert_eq!(parse(&format(&indexes), 200), indexes);
        }
    }
}
