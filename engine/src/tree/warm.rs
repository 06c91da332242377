//! What a batch of writes is about to need, brought near.
//!
//! In an index of millions of keys most of a write is waiting for memory, node after node on the way down. The ways of
//! different keys do not depend on each other: walked side by side, one level at a time, they wait together.

use std::hint::black_box;

use super::node::Node;

/// Ways that are walked side by side: about as many as a core can wait for.
const GROUP: usize = 16;
/// Bytes that come together.
const LINE: usize = 64;

/// Reads a part of every line.
pub(super) fn touch<T: Copy>(all: &[T]) {
    for each in all.iter().step_by((LINE / size_of::<T>()).max(1)) {
        black_box(*each);
    }
}

/// Walks to the leaf of each of these keys; returns how often it got to one.
pub(super) fn warm<'a>(root: &Node, mut keys: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut leaves = 0;
    loop {
        let mut ways: [(&Node, &[u8]); GROUP] = [(root, &[]); GROUP];
        let mut count = 0;
        for (way, key) in ways.iter_mut().zip(keys.by_ref()) {
            way.1 = key;
            count += 1;
        }
        if count == 0 {
            return leaves;
        }
        leaves += walk(&mut ways[..count]);
    }
}

fn walk(ways: &mut [(&Node, &[u8])]) -> usize {
    loop {
        for (node, _) in ways.iter() {
            black_box(node.len());
        }
        for (node, _) in ways.iter() {
            node.touch();
        }
        // All leaves have the same depth.
        if let Some((Node::Leaf(_), _)) = ways.first() {
            return ways.iter().filter(|(node, _)| matches!(node, Node::Leaf(_))).count();
        }
        for (node, key) in ways.iter_mut() {
            let Node::Branch(branch) = node else { continue };
            *node = &branch.children[branch.child(key)].node;
        }
    }
}
