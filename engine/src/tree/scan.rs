//! Walks over a tree that somebody holds: none of them locks, copies or blocks anything.
//!
//! In all of them a bound of `None` is "no bound": a subtree between the two ends of a range is walked without
//! comparing keys.

use super::Summary;
use super::node::{Leaf, Node};
use crate::history::Entry;

pub(super) fn visit_one<'a>(node: &'a Node, key: &[u8], visit: &mut dyn FnMut(&'a [u8], Entry<'a>) -> bool) {
    match node {
        Node::Leaf(leaf) => {
            if let Ok(index) = leaf.find(key) {
                visit(leaf.keys.get(index), leaf.entry(index));
            }
        }
        Node::Branch(branch) => visit_one(&branch.children[branch.child(key)].node, key, visit),
    }
}

/// Indices of the leaf's keys within the bounds.
fn within(leaf: &Leaf, start: Option<&[u8]>, end: Option<&[u8]>) -> std::ops::Range<usize> {
    let from = start.map_or(0, |start| leaf.keys.rank(start));
    let until = end.map_or(leaf.keys.len(), |end| leaf.keys.rank(end));
    from..until.max(from)
}

/// `false` if `visit` ended it.
pub(super) fn visit<'a>(
    node: &'a Node,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    f: &mut dyn FnMut(&'a [u8], Entry<'a>) -> bool,
) -> bool {
    match node {
        Node::Leaf(leaf) => within(leaf, start, end).all(|index| f(leaf.keys.get(index), leaf.entry(index))),
        Node::Branch(branch) => {
            let first = start.map_or(0, |start| branch.child(start));
            let last = end.map_or(branch.children.len() - 1, |end| branch.child(end));
            (first..=last).all(|index| {
                let start = start.filter(|_| index == first);
                let end = end.filter(|_| index == last);
                visit(&branch.children[index].node, start, end, f)
            })
        }
    }
}

/// Live keys at `revision`; `summary` is the node's own.
pub(super) fn count(node: &Node, start: Option<&[u8]>, end: Option<&[u8]>, summary: Summary, revision: i64) -> u64 {
    if start.is_none() && end.is_none() && summary.newest <= revision {
        return summary.live;
    }
    match node {
        Node::Leaf(leaf) => {
            let visible = |index: &usize| leaf.entry(*index).visible(revision).is_some();
            within(leaf, start, end).filter(visible).count() as u64
        }
        Node::Branch(branch) => {
            let first = start.map_or(0, |start| branch.child(start));
            let last = end.map_or(branch.children.len() - 1, |end| branch.child(end));
            let each = (first..=last).map(|index| {
                let child = &branch.children[index];
                let start = start.filter(|_| index == first);
                let end = end.filter(|_| index == last);
                count(&child.node, start, end, child.summary, revision)
            });
            each.sum()
        }
    }
}

/// What [`find_dead`] looks for and how much of it.
pub(super) struct DeadSearch<'f> {
    pub revision: i64,
    pub limit: usize,
    pub visits: usize,
    pub found: &'f mut Vec<Vec<u8>>,
}

/// Returns the key to go on from when a limit was reached.
pub(super) fn find_dead(
    node: &Node,
    start: Option<&[u8]>,
    summary: Summary,
    search: &mut DeadSearch,
) -> Option<Vec<u8>> {
    if summary.garbage == 0 {
        return None;
    }
    match node {
        Node::Leaf(leaf) => {
            for index in within(leaf, start, None) {
                if search.limit == 0 || search.visits == 0 {
                    return Some(leaf.keys.get(index).to_vec());
                }
                search.visits -= 1;
                if leaf.entry(index).has_dead(search.revision) {
                    search.limit -= 1;
                    search.found.push(leaf.keys.get(index).to_vec());
                }
            }
            None
        }
        Node::Branch(branch) => {
            let first = start.map_or(0, |start| branch.child(start));
            (first..branch.children.len()).find_map(|index| {
                let child = &branch.children[index];
                find_dead(&child.node, start.filter(|_| index == first), child.summary, search)
            })
        }
    }
}
