//! The keys of one lease. Nearly all leases have none or one, so those cost no set.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;

#[derive(Default)]
pub(super) enum Keys {
    #[default]
    None,
    One(Box<[u8]>),
    #[expect(clippy::box_collection, reason = "a third of the size, in each of a million leases")]
    Many(Box<BTreeSet<Box<[u8]>>>),
}

impl Keys {
    pub fn insert(&mut self, key: &[u8]) {
        match self {
            Keys::None => *self = Keys::One(key.into()),
            Keys::One(only) if **only == *key => {}
            Keys::One(only) => *self = Keys::Many(Box::new(BTreeSet::from([std::mem::take(only), key.into()]))),
            Keys::Many(keys) => _ = keys.insert(key.into()),
        }
    }

    pub fn remove(&mut self, key: &[u8]) {
        match self {
            Keys::One(only) if **only == *key => *self = Keys::None,
            Keys::None | Keys::One(_) => {}
            Keys::Many(keys) => {
                keys.remove(key);
                if keys.is_empty() {
                    *self = Keys::None;
                }
            }
        }
    }

    /// Those behind `last` (`None`: all), in order.
    pub fn after<'a>(&'a self, last: Option<&'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
        let (one, many) = match self {
            Keys::None => (None, None),
            Keys::One(only) => (Some(only), None),
            Keys::Many(keys) => (None, Some(keys)),
        };
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let many = many.into_iter().flat_map(move |keys| keys.range::<[u8], _>((from, Bound::Unbounded)));
        let one = one.into_iter().filter(move |only| last.is_none_or(|last| *last < ***only));
        one.chain(many).map(|key| &**key)
    }

    pub fn into_sorted(self) -> Vec<Bytes> {
        match self {
            Keys::None => Vec::new(),
            Keys::One(only) => vec![Bytes::from(only)],
            Keys::Many(keys) => keys.into_iter().map(Bytes::from).collect(),
        }
    }
}
