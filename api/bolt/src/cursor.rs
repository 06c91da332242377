//! Walks a bucket's tree in order. Keys must ascend over the whole walk and every page below the root must hold
//! something, so a tree that leads in circles ends with an error after one round at most.

use crate::db::{Bucket, Place};
use crate::format::{BRANCH, BUCKET, ELEMENT, HEAD, Head, LEAF, u32_at, u64_at};
use crate::{Db, Error, Marks};

/// Deepest tree that is followed. A real one of this depth would need more pages than any disk has.
const MAX_DEPTH: usize = 40;

/// A page whose every element was checked to lie inside of it, in ascending order of keys.
#[derive(Debug)]
pub(crate) struct Node {
    id: u64,
    is_leaf: bool,
    count: usize,
    bytes: Vec<u8>,
}

impl Node {
    /// The error says what is wrong with the page.
    pub fn parse(id: u64, bytes: Vec<u8>) -> Result<Node, String> {
        let head = Head::decode(&bytes).ok_or("it has no head")?;
        let is_leaf = match head.flags {
            LEAF => true,
            BRANCH => false,
            other => return Err(format!("a branch or leaf is expected, and its flags are {other:#x}")),
        };
        let node = Node { id, is_leaf, count: usize::from(head.count), bytes };
        let data = HEAD + node.count * ELEMENT;
        let mut before: &[u8] = &[];
        for index in 0..node.count {
            let span = node.span(index).ok_or("an element lies outside of it")?;
            let key = node.bytes.get(span.0..span.1).filter(|_| span.0 >= data && span.2 <= node.bytes.len());
            let key = key.ok_or("an element lies outside of it")?;
            if key <= before {
                return Err("its keys are not in ascending order".to_owned());
            }
            before = key;
        }
        Ok(node)
    }

    /// Start and end of an element's key and end of its value.
    fn span(&self, index: usize) -> Option<(usize, usize, usize)> {
        let at = HEAD + index * ELEMENT;
        let number = |offset: usize| u32_at(&self.bytes, at + offset).map(|number| number as usize);
        let (position, key, value) = match self.is_leaf {
            true => (number(4)?, number(8)?, number(12)?),
            false => (number(0)?, number(4)?, 0),
        };
        let start = at.checked_add(position)?;
        let end = start.checked_add(key)?;
        Some((start, end, end.checked_add(value)?))
    }

    // What follows is within bounds: `parse` has looked at every element.

    fn key(&self, index: usize) -> &[u8] {
        self.span(index).and_then(|(start, end, _)| self.bytes.get(start..end)).unwrap_or_default()
    }

    fn value(&self, index: usize) -> &[u8] {
        self.span(index).and_then(|(_, start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }

    fn is_bucket(&self, index: usize) -> bool {
        u32_at(&self.bytes, HEAD + index * ELEMENT).is_some_and(|flags| flags & BUCKET != 0)
    }

    fn child(&self, index: usize) -> u64 {
        u64_at(&self.bytes, HEAD + index * ELEMENT + 8).unwrap_or_default()
    }
}

/// One record of a bucket, or a bucket in it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub key: &'a [u8],
    /// A record's value; for a bucket its encoding.
    pub value: &'a [u8],
    pub is_bucket: bool,
    page: u64,
    db: &'a Db,
}

impl Item<'_> {
    /// The bucket that this is; `None` for a record.
    ///
    /// # Errors
    /// [`Error::Damaged`] when its encoding is cut short.
    pub fn bucket(&self) -> Result<Option<Bucket>, Error> {
        if !self.is_bucket {
            return Ok(None);
        }
        Bucket::decode(self.page, self.value).map(Some).map_err(|reason| self.db.damaged(self.page, reason))
    }
}

/// A walk through a bucket; see [`Db::cursor`].
pub struct Cursor<'a> {
    db: &'a Db,
    marks: Option<&'a Marks>,
    start: Option<Bucket>,
    /// From the root to the leaf at hand, each with the index of the element that comes next.
    stack: Vec<(Node, usize)>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(db: &'a Db, bucket: Bucket, marks: Option<&'a Marks>) -> Cursor<'a> {
        Cursor { db, marks, start: Some(bucket), stack: Vec::new() }
    }

    /// The next record or bucket, in key order; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`], which names the page.
    #[expect(clippy::should_implement_trait, reason = "items borrow the cursor's page")]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        if let Some(bucket) = self.start.take() {
            let root = match bucket.0 {
                Place::Page(page) => self.db.node(page, self.marks)?,
                Place::Inline(holder, bytes) => {
                    let node = Node::parse(holder, bytes).map_err(|reason| self.db.damaged(holder, reason))?;
                    if !node.is_leaf {
                        return Err(self.db.damaged(holder, "an inline bucket that is not a leaf"));
                    }
                    node
                }
            };
            self.stack.push((root, 0));
        }
        loop {
            let Some((node, next)) = self.stack.last_mut() else { return Ok(None) };
            if *next == node.count {
                self.stack.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            if node.is_leaf {
                break;
            }
            let child = node.child(index);
            self.descend(child)?;
        }
        let Some((node, next)) = self.stack.last() else { return Ok(None) };
        let index = next - 1;
        let (key, value, is_bucket) = (node.key(index), node.value(index), node.is_bucket(index));
        Ok(Some(Item { key, value, is_bucket, page: node.id, db: self.db }))
    }

    fn descend(&mut self, page: u64) -> Result<(), Error> {
        if self.stack.len() == MAX_DEPTH {
            return Err(self.db.damaged(page, "the tree is deeper than any can be"));
        }
        let child = self.db.node(page, self.marks)?;
        let Some(last) = child.count.checked_sub(1) else {
            return Err(self.db.damaged(page, "it is empty, and not the root of its bucket"));
        };
        let mut low = None;
        let mut high = None;
        for (parent, next) in self.stack.iter().rev() {
            // The element taken last is the one that leads here.
            low = low.or(next.checked_sub(1).map(|index| parent.key(index)));
            high = high.or((*next < parent.count).then(|| parent.key(*next)));
        }
        if low.is_some_and(|low| child.key(0) < low) || high.is_some_and(|high| child.key(last) >= high) {
            return Err(self.db.damaged(page, "its keys do not belong where it hangs in the tree"));
        }
        self.stack.push((child, 0));
        Ok(())
    }
}
