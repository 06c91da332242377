//! The tree against an ordered map, deep enough to split and merge at every level.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::node::FANOUT;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u16),
    Delete(u16),
    /// Keeps a clone, to be compared at the end.
    Snapshot,
    /// Compacts at this share (of 255) of the revisions so far.
    Compact(u8),
}

fn key(number: u16) -> Vec<u8> {
    // Common prefixes of many lengths, and keys that are prefixes of others.
    format!("/registry/{}", &format!("{number:05}")[..3 + number as usize % 3]).into_bytes()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..400u16).prop_map(Step::Put),
        10 => (0..400u16).prop_map(Step::Delete),
        1 => Just(Step::Snapshot),
        1 => any::<u8>().prop_map(Step::Compact),
    ]
}

/// All writes of every key: revision and whether it was a put.
type Model = BTreeMap<Vec<u8>, Vec<(i64, bool)>>;

fn visible(model: &Model, revision: i64) -> Vec<(Vec<u8>, i64)> {
    let at = model.iter().filter_map(|(key, writes)| {
        let &(main, put) = writes.iter().rfind(|(main, _)| *main <= revision)?;
        put.then(|| (key.clone(), main))
    });
    at.collect()
}

#[test]
fn any_keys_can_be_brought_near_in_any_tree() {
    for keys in [0, 1, FANOUT as u16, 400] {
        let mut tree = Tree::default();
        for number in 0..keys {
            let at = Revision { main: i64::from(number) + 2, sub: 0 };
            tree.write(&key(number), Change::Put { at, lease: 0, length: 0 });
        }
        let wanted: Vec<Vec<u8>> = (0..500).step_by(7).map(key).chain([Vec::new(), vec![0xff; 100]]).collect();
        for count in [0, 1, 16, 17, wanted.len()] {
            let leaves = tree.warm(wanted[..count].iter().map(Vec::as_slice));
            assert_eq!(leaves, count, "of {keys} keys");
        }
    }
}

fn check(tree: &Tree, model: &Model, revision: i64, from: &[u8], until: &[u8]) {
    let within = |key: &[u8]| from <= key && key < until;
    let expected: Vec<_> = visible(model, revision).into_iter().filter(|(key, _)| within(key)).collect();
    let mut seen = Vec::new();
    let span = Span::Range(from, Some(until));
    tree.visit(span, &mut |key, entry| {
        seen.extend(entry.visible(revision).map(|at| (key.to_vec(), at.main)));
        true
    });
    assert_eq!(seen, expected);
    assert_eq!(tree.count(span, revision), expected.len() as u64);
    for (key, main) in &expected {
        assert_eq!(tree.get(key).and_then(|entry| entry.visible(revision)).map(|at| at.main), Some(*main));
    }
}

/// Depth below the node; panics where branches differ in depth, are over-full, or have stale sums.
fn shape(node: &Node) -> usize {
    assert!(node.len() <= FANOUT);
    match node {
        Node::Leaf(leaf) => {
            assert!(leaf.is_sound());
            0
        }
        Node::Branch(branch) => {
            assert!(branch.keys.len() == branch.children.len() && branch.keys.len() > 0);
            let depths: Vec<usize> = branch.children.iter().map(|child| shape(&child.node)).collect();
            assert!(depths.windows(2).all(|pair| pair[0] == pair[1]));
            for child in &branch.children {
                assert_eq!(child.node.summary(), child.summary);
                assert!(child.node.len() > 0);
            }
            depths[0] + 1
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn like_an_ordered_map(steps in vec(step(), 1..600), bounds in vec((0..400u16, 0..400u16), 4)) {
        let mut tree = Tree::default();
        let mut model = Model::new();
        let mut kept: Vec<(Tree, Model, i64)> = Vec::new();
        let (mut revision, mut compacted) = (1, 0);
        for step in steps {
            match step {
                Step::Put(number) => {
                    revision += 1;
                    tree.write(&key(number), Change::Put { at: Revision { main: revision, sub: 0 }, lease: 0, length: 0 });
                    model.entry(key(number)).or_default().push((revision, true));
                }
                Step::Delete(number) => {
                    let lives = tree.get(&key(number)).is_some_and(Entry::is_live);
                    prop_assert_eq!(lives, visible(&model, revision).iter().any(|(other, _)| *other == key(number)));
                    if lives {
                        revision += 1;
                        tree.write(&key(number), Change::Delete { at: Revision { main: revision, sub: 0 } });
                        model.entry(key(number)).or_default().push((revision, false));
                    }
                }
                Step::Snapshot if kept.len() < 3 => kept.push((tree.clone(), model.clone(), revision)),
                Step::Snapshot => {}
                Step::Compact(share) => {
                    compacted = compacted.max(revision * i64::from(share) / 255);
                    let mut from = Some(Vec::new());
                    while let Some(start) = from {
                        let mut dead = Vec::new();
                        from = tree.find_dead(&start, compacted, 3, 7, &mut dead);
                        prop_assert!(dead.len() <= 3);
                        dead.iter().for_each(|key| tree.trim(key, compacted, &mut Vec::new()));
                    }
                    shape(&tree.root);
                }
            }
        }
        let depth = shape(&tree.root);
        prop_assert!(depth < 8, "depth {}", depth);
        prop_assert_eq!(tree.summary(), tree.root.summary());
        for (one, other) in bounds {
            for at in [revision, (revision + compacted) / 2, compacted] {
                check(&tree, &model, at.max(compacted), &key(one.min(other)), &key(one.max(other)));
            }
            for (tree, model, revision) in &kept {
                check(tree, model, *revision, &key(one.min(other)), b"0");
            }
        }
        // Deleting everything and compacting behind it leaves an empty tree.
        let all: Vec<Vec<u8>> = visible(&model, revision).into_iter().map(|(key, _)| key).collect();
        for key in &all {
            revision += 1;
            tree.write(key, Change::Delete { at: Revision { main: revision, sub: 0 } });
        }
        let mut dead = Vec::new();
        prop_assert_eq!(tree.find_dead(b"", revision + 1, usize::MAX, usize::MAX, &mut dead), None);
        dead.iter().for_each(|key| tree.trim(key, revision + 1, &mut Vec::new()));
        prop_assert_eq!((tree.summary().live, tree.summary().garbage, tree.root.len()), (0, 0, 0));
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let mut tree = Tree::default();
    for number in 0..1000u32 {
        let change = Change::Put { at: Revision { main: i64::from(number) + 2, sub: 0 }, lease: 0, length: 0 };
        tree.write(format!("{number:06}").as_bytes(), change);
    }
    fn leaves(node: &Node) -> usize {
        match node {
            Node::Leaf(_) => 1,
            Node::Branch(branch) => branch.children.iter().map(|child| leaves(&child.node)).sum(),
        }
    }
    assert!(leaves(&tree.root) <= 1000 / FANOUT + 1);
}

#[test]
fn huge_keys_do_not_share_a_node() {
    let mut tree = Tree::default();
    for number in 0..20u8 {
        let key = vec![number; 100 << 10];
        tree.write(&key, Change::Put { at: Revision { main: i64::from(number) + 2, sub: 0 }, lease: 0, length: 0 });
    }
    fn heaviest(node: &Node) -> usize {
        match node {
            Node::Leaf(leaf) => leaf.keys.weight(),
            Node::Branch(branch) => {
                let below = branch.children.iter().map(|child| heaviest(&child.node)).max().unwrap_or(0);
                below.max(branch.keys.weight())
            }
        }
    }
    assert!(heaviest(&tree.root) <= 100 << 10);
    assert_eq!(tree.count(Span::Range(b"", None), 100), 20);
}
