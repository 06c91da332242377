//! Ranges that may be read or written, merged so that one search answers.

use bytes::Bytes;

use crate::command::KeyRange;

/// The right to read or write a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// [`Permission::READ`], [`Permission::WRITE`] or [`Permission::READWRITE`], as on the wire. Any other number is
    /// kept as it is, as etcd does, and permits nothing.
    pub kind: i32,
    pub range: KeyRange,
}

impl Permission {
    pub const READ: i32 = 0;
    pub const WRITE: i32 = 1;
    pub const READWRITE: i32 = 2;

    pub(super) fn reads(&self) -> bool {
        matches!(self.kind, Self::READ | Self::READWRITE)
    }

    pub(super) fn writes(&self) -> bool {
        matches!(self.kind, Self::WRITE | Self::READWRITE)
    }

    /// Whether the range is one: it has a start, and an end behind it or none at all.
    pub(super) fn is_valid(&self) -> bool {
        let KeyRange { start, end } = &self.range;
        !start.is_empty() && (end.is_empty() || is_open(end) || start < end)
    }
}

fn is_open(end: &Bytes) -> bool {
    end[..] == [0]
}

/// From its start to its end, or to the last key.
type Stretch = (Bytes, Option<Bytes>);

/// Stretches of keys: sorted, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Stretch>);

impl Ranges {
    pub(super) fn merged<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Ranges {
        let stretch = |permission: &Permission| {
            let KeyRange { start, end } = &permission.range;
            let end = match &end[..] {
                [] => Some([&start[..], &[0]].concat().into()),
                [0] => None,
                _ => Some(end.clone()),
            };
            (start.clone(), end)
        };
        let mut all: Vec<Stretch> = permissions.filter(|permission| permission.is_valid()).map(stretch).collect();
        all.sort_unstable();
        let mut merged: Vec<Stretch> = Vec::with_capacity(all.len());
        for (start, end) in all {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    if end.is_none() || last.as_ref().is_some_and(|last| end.as_ref() > Some(last)) {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Ranges(merged)
    }

    /// Whether every key of the range is in here. A range whose end is not behind its start holds no key; as in etcd
    /// its start must be in here all the same.
    pub(super) fn contains(&self, range: &KeyRange) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= range.start);
        let Some((_, last)) = after.checked_sub(1).and_then(|at| self.0.get(at)) else { return false };
        let Some(last) = last else { return true };
        range.start < *last && !is_open(&range.end) && range.end <= *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn permission((start, end): (u8, u8)) -> Permission {
        // An end of 0 is a single key, of 31 all keys from the start on.
        let end = match end {
            0 => Bytes::new(),
            31 => Bytes::from_static(&[0]),
            end => Bytes::copy_from_slice(&[end]),
        };
        Permission { kind: Permission::READ, range: KeyRange { start: Bytes::copy_from_slice(&[start]), end } }
    }

    /// Keys of one byte, and one of two in each gap, so that what lies between two keys counts.
    fn keys() -> impl Iterator<Item = Vec<u8>> {
        (1..40u8).flat_map(|first| [vec![first], vec![first, 0], vec![first, 7]])
    }

    fn holds(range: &KeyRange, key: &[u8]) -> bool {
        match &range.end[..] {
            [] => range.start[..] == *key,
            [0] => range.start[..] <= *key,
            end => range.start[..] <= *key && key < end,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// One search in the merged ranges finds what looking at every key in every range does.
        #[test]
        fn merged_is_naive(
            granted in proptest::collection::vec((1u8..31, 0u8..32), 0..10),
            asked in (1u8..31, 0u8..32),
        ) {
            let granted: Vec<_> = granted.into_iter().map(permission).collect();
            let merged = Ranges::merged(granted.iter());
            let asked = permission(asked);
            let may = |key: &[u8]| granted.iter().any(|permission| permission.is_valid() && holds(&permission.range, key));
            let expected = match asked.is_valid() {
                true => keys().filter(|key| holds(&asked.range, key)).all(|key| may(&key))
                    // Nothing bounded covers what has no end.
                    && (!is_open(&asked.range.end) || granted.iter().any(|permission| is_open(&permission.range.end))),
                false => may(&asked.range.start),
            };
            prop_assert_eq!(merged.contains(&asked.range), expected, "{:?} in {:?}", asked, merged);
            prop_assert!(merged.0.windows(2).all(|pair| pair[0].1.as_ref().is_some_and(|end| *end < pair[1].0)), "apart");
        }
    }
}
