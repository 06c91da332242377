//! Nodes of the index and how one path of them changes.

use std::hint::black_box;
use std::sync::Arc;

use super::Summary;
use super::histories::Histories;
use super::keys::Keys;
use crate::Revision;
use crate::history::{Change, Entry, Newest, Written};

/// Keys of a leaf, children of a branch. Small under test, so that trees are deep.
pub(super) const FANOUT: usize = if cfg!(test) { 6 } else { 32 };
/// A node with more key bytes than this is split early, so that huge keys do not make every copy huge.
const MAX_KEY_BYTES: usize = 32 << 10;

pub(super) enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

/// Copies share the keys until one of them gets another key, and the histories until one of them grows: a write to a key
/// that is there copies what is known of newest writes only, which is plain memory.
#[derive(Default)]
pub(super) struct Leaf {
    pub keys: Arc<Keys>,
    newest: Vec<Newest>,
    histories: Histories,
}

/// Child `i` holds the keys from `keys[i]` (inclusive) to `keys[i + 1]`; the first takes everything before, too.
pub(super) struct Branch {
    pub keys: Arc<Keys>,
    pub children: Vec<Child>,
}

#[derive(Clone)]
pub(super) struct Child {
    pub node: Arc<Node>,
    pub summary: Summary,
}

/// A node that was split off to the right, and the key that separates it from the left one.
pub(super) struct Split {
    separator: Vec<u8>,
    right: Arc<Node>,
}

impl Default for Node {
    fn default() -> Node {
        Node::Leaf(Leaf::default())
    }
}

impl Leaf {
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let rank = self.keys.rank(key);
        if rank < self.keys.len() && self.keys.get(rank) == key { Ok(rank) } else { Err(rank) }
    }

    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        self.find(key).ok().map(|index| self.entry(index))
    }

    /// Whether its arrays have the lengths that they should have.
    #[cfg(test)]
    pub fn is_sound(&self) -> bool {
        let keys = self.keys.len();
        self.newest.len() == keys && self.histories.len().is_none_or(|length| length == keys)
    }

    pub fn entry(&self, index: usize) -> Entry<'_> {
        Entry::new(&self.newest[index], self.histories.get(index))
    }
}

impl Leaf {
    /// Drops what a compaction at `revision` allows to drop of one key, and the key where nothing is left of it.
    fn trim(&mut self, index: usize, revision: i64, dropped: &mut impl Extend<Revision>) {
        let entry = self.entry(index);
        let (dead, versions) = (entry.dead(revision), entry.versions());
        dropped.extend((0..dead).map(|version| entry.version(version).at));
        if dead == versions {
            self.newest.remove(index);
            self.histories.remove(index);
            own_keys(&mut self.keys, None).remove(index);
        } else if dead > 0 {
            let left = self.newest[index].forget(versions - 1 - dead, self.histories.get(index));
            self.histories.set(index, left, self.newest.len());
        }
    }
}

impl Branch {
    /// Index of the child in charge of `key`.
    pub fn child(&self, key: &[u8]) -> usize {
        self.keys.upper(key).saturating_sub(1)
    }
}

impl Child {
    fn of(node: Arc<Node>) -> Child {
        Child { summary: node.summary(), node }
    }
}

impl Node {
    pub fn root_of(left: Arc<Node>, split: Split) -> Node {
        let mut keys = Keys::default();
        keys.insert(0, b"");
        keys.insert(1, &split.separator);
        Node::Branch(Branch { keys: Arc::new(keys), children: vec![Child::of(left), Child::of(split.right)] })
    }

    pub fn only_child(&self) -> Option<Arc<Node>> {
        match self {
            Node::Branch(Branch { children, .. }) if children.len() == 1 => Some(Arc::clone(&children[0].node)),
            _ => None,
        }
    }

    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        match self {
            Node::Leaf(leaf) => {
                for index in 0..leaf.newest.len() {
                    let entry = leaf.entry(index);
                    summary.live += u64::from(entry.is_live());
                    summary.garbage += entry.garbage();
                    summary.newest = summary.newest.max(entry.newest().at.main);
                }
            }
            Node::Branch(branch) => {
                for child in &branch.children {
                    summary.live += child.summary.live;
                    summary.garbage += child.summary.garbage;
                    summary.newest = summary.newest.max(child.summary.newest);
                }
            }
        }
        summary
    }

    pub fn len(&self) -> usize {
        self.keys().len()
    }

    /// Reads what a write looks at or copies.
    pub fn touch(&self) {
        self.keys().touch();
        match self {
            Node::Leaf(leaf) => leaf.newest.iter().for_each(Newest::touch),
            Node::Branch(branch) => {
                for child in &branch.children {
                    black_box(child.summary.live);
                }
            }
        }
    }

    fn keys(&self) -> &Keys {
        match self {
            Node::Leaf(leaf) => &leaf.keys,
            Node::Branch(branch) => &branch.keys,
        }
    }

    /// A copy of its own, with room for `room` more entries.
    fn copy(&self, room: usize) -> Node {
        fn vector<T: Clone>(from: &[T], room: usize) -> Vec<T> {
            let mut copy = Vec::with_capacity(from.len() + room);
            copy.extend_from_slice(from);
            copy
        }
        match self {
            Node::Leaf(leaf) => Node::Leaf(Leaf {
                keys: Arc::clone(&leaf.keys),
                newest: vector(&leaf.newest, room),
                histories: leaf.histories.clone(),
            }),
            Node::Branch(branch) => {
                Node::Branch(Branch { keys: Arc::clone(&branch.keys), children: vector(&branch.children, room) })
            }
        }
    }

    fn is_over(&self) -> bool {
        self.len() > FANOUT || (self.len() > 1 && self.keys().weight() > MAX_KEY_BYTES)
    }

    /// Splits an overfull node. `at` is where a key was just added: at the end, it is likely that more follow
    /// there, so the left node stays full and ascending keys fill their leaves.
    fn split(&mut self, at: usize) -> Option<Split> {
        if !self.is_over() {
            return None;
        }
        let middle = if at + 1 == self.len() { at } else { self.len() / 2 };
        match self {
            Node::Leaf(leaf) => {
                let separator = separator(leaf.keys.get(middle - 1), leaf.keys.get(middle));
                let keys = Arc::new(own_keys(&mut leaf.keys, None).split_off(middle));
                let newest = leaf.newest.split_off(middle);
                leaf.newest.shrink_to_fit();
                let histories = leaf.histories.split_off(middle);
                Some(Split { separator, right: Arc::new(Node::Leaf(Leaf { keys, newest, histories })) })
            }
            Node::Branch(branch) => {
                let separator = branch.keys.get(middle).to_vec();
                let keys = Arc::new(own_keys(&mut branch.keys, None).split_off(middle));
                let children = branch.children.split_off(middle);
                branch.children.shrink_to_fit();
                Some(Split { separator, right: Arc::new(Node::Branch(Branch { keys, children })) })
            }
        }
    }

    /// Adds the content of the node to the right of this one, `separator` being the key between them.
    fn absorb(&mut self, right: &Node, separator: &[u8]) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                own_keys(&mut left.keys, None).append(&right.keys);
                left.histories.append(left.newest.len(), &right.histories, right.newest.len());
                left.newest.extend_from_slice(&right.newest);
            }
            (Node::Branch(left), Node::Branch(right)) => {
                let keys = own_keys(&mut left.keys, None);
                let first = keys.len();
                keys.append(&right.keys);
                keys.set(first, separator);
                left.children.extend_from_slice(&right.children);
            }
            _ => unreachable!("siblings have the same height"),
        }
    }
}

/// The shortest key that is behind `left` and not behind `right`.
fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    let common = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    right[..(common + 1).min(right.len())].to_vec()
}

/// Makes the node the writer's alone, copying it if a snapshot shares it, and then with room for `room` more entries.
fn own(node: &mut Arc<Node>, room: usize) -> &mut Node {
    if Arc::get_mut(node).is_none() {
        *node = Arc::new(node.copy(room));
    }
    Arc::get_mut(node).expect("nobody else can hold a node that was just made or found unshared")
}

/// The same for a node's keys; `room` is the length of a key that is about to be added.
fn own_keys(keys: &mut Arc<Keys>, room: Option<usize>) -> &mut Keys {
    if Arc::get_mut(keys).is_none() {
        *keys = Arc::new(keys.copy(room));
    }
    Arc::get_mut(keys).expect("nobody else can hold keys that were just copied or found unshared")
}

/// What a write changes in the summary of every node on its path.
pub(super) struct Difference {
    live: i64,
    garbage: i64,
    newest: i64,
}

impl Difference {
    /// Between an entry that counted for `live` and `garbage` before, and what it is now.
    fn of(live: bool, garbage: u64, now: Entry) -> Difference {
        Difference {
            live: i64::from(now.is_live()) - i64::from(live),
            garbage: now.garbage() as i64 - garbage as i64,
            newest: now.newest().at.main,
        }
    }

    pub fn add_to(&self, summary: &mut Summary) {
        summary.live = summary.live.wrapping_add_signed(self.live);
        summary.garbage = summary.garbage.wrapping_add_signed(self.garbage);
        summary.newest = summary.newest.max(self.newest);
    }
}

pub(super) fn write(node: &mut Arc<Node>, key: &[u8], change: Change) -> (Written, Difference, Option<Split>) {
    match &**node {
        Node::Leaf(leaf) => {
            let place = leaf.find(key);
            let node = own(node, usize::from(place.is_err()));
            let Node::Leaf(leaf) = node else { unreachable!("a copy of a leaf is a leaf") };
            match place {
                Ok(index) => {
                    let before = leaf.entry(index);
                    let (live, garbage) = (before.is_live(), before.garbage());
                    let (written, grown) = leaf.newest[index].write(leaf.histories.get(index), change);
                    if grown.is_some() {
                        leaf.histories.set(index, grown, leaf.newest.len());
                    }
                    (written, Difference::of(live, garbage, leaf.entry(index)), None)
                }
                Err(index) => {
                    let mut newest = Newest::default();
                    let (written, _) = newest.write(None, change);
                    let difference = Difference::of(false, 0, Entry::new(&newest, None));
                    own_keys(&mut leaf.keys, Some(key.len())).insert(index, key);
                    if leaf.newest.len() == leaf.newest.capacity() {
                        leaf.newest.reserve_exact(4);
                    }
                    leaf.newest.insert(index, newest);
                    leaf.histories.insert(index);
                    (written, difference, node.split(index))
                }
            }
        }
        Node::Branch(branch) => {
            let index = branch.child(key);
            let node = own(node, 0);
            let Node::Branch(branch) = node else { unreachable!("a copy of a branch is a branch") };
            let child = &mut branch.children[index];
            let (written, difference, split) = write(&mut child.node, key, change);
            let Some(split) = split else {
                difference.add_to(&mut child.summary);
                return (written, difference, None);
            };
            child.summary = child.node.summary();
            own_keys(&mut branch.keys, Some(split.separator.len())).insert(index + 1, &split.separator);
            branch.children.insert(index + 1, Child::of(split.right));
            (written, difference, node.split(index + 1))
        }
    }
}

/// Trims one key's history and repairs the path behind it: empty nodes go, small ones merge with a neighbour.
pub(super) fn trim(node: &mut Arc<Node>, key: &[u8], revision: i64, dropped: &mut impl Extend<Revision>) {
    match &**node {
        Node::Leaf(leaf) => {
            let Ok(index) = leaf.find(key) else { return };
            let Node::Leaf(leaf) = own(node, 0) else { unreachable!("a copy of a leaf is a leaf") };
            leaf.trim(index, revision, dropped);
        }
        Node::Branch(branch) => {
            let index = branch.child(key);
            let Node::Branch(branch) = own(node, 0) else { unreachable!("a copy of a branch is a branch") };
            let child = &mut branch.children[index];
            trim(&mut child.node, key, revision, dropped);
            child.summary = child.node.summary();
            let length = child.node.len();
            if length == 0 {
                branch.children.remove(index);
                own_keys(&mut branch.keys, None).remove(index);
            } else if length < FANOUT.div_ceil(4) {
                merge(branch, index);
            }
        }
    }
}

/// Merges the child with a neighbour if both together leave room for growth.
fn merge(branch: &mut Branch, index: usize) {
    let left = if index > 0 { index - 1 } else { index };
    let Some(right) = branch.children.get(left + 1) else { return };
    let (first, second) = (&branch.children[left].node, &right.node);
    if first.len() + second.len() > FANOUT * 3 / 4 || first.keys().weight() + second.keys().weight() > MAX_KEY_BYTES / 2
    {
        return;
    }
    let right = branch.children.remove(left + 1).node;
    let separator = branch.keys.get(left + 1).to_vec();
    own_keys(&mut branch.keys, None).remove(left + 1);
    let child = &mut branch.children[left];
    own(&mut child.node, 0).absorb(&right, &separator);
    child.summary = child.node.summary();
}
