//! Makes a file from sorted input, page by page, bottom up: what is full goes out at once, so memory stays at a few
//! pages and the largest value.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::Error;
use crate::format::{
    BRANCH, BUCKET, BUCKET_HEAD, ELEMENT, FREELIST, HEAD, Head, LEAF, MAX_KEY, MAX_VALUE, META, Meta, PAGE_SIZE,
};

/// Pages in front of the data: two metas and an empty freelist.
const FRONT: u64 = 3;
const FREELIST_PAGE: u64 = 2;
/// A small bucket lies inline in its parent up to this size (bbolt's own threshold).
const MAX_INLINE: usize = PAGE_SIZE / 4;
/// Fewest children of a branch page that is not the last of its level; bbolt expects two at least of any.
const MIN_FLUSH: usize = 3;
const OUT_BUFFER: usize = 1 << 20;

/// A file under construction. What is written before [`Writer::finish`] is no valid file.
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    /// The page that comes next.
    next: u64,
    /// The root bucket and those opened in it, outermost first; never empty before the end.
    open: Vec<Tree>,
}

/// A bucket that is being filled.
#[derive(Default)]
struct Tree {
    name: Vec<u8>,
    leaf: Leaf,
    /// Branch levels, lowest first. The lowest exists once a leaf page has gone out.
    branches: Vec<Vec<Child>>,
    last: Vec<u8>,
    has_nested: bool,
}

/// Elements of the leaf page at hand; keys and values lie in `data` in order, as they will in the page.
#[derive(Default)]
struct Leaf {
    elements: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
}

struct Child {
    key: Box<[u8]>,
    page: u64,
}

impl Leaf {
    fn size(&self) -> usize {
        HEAD + ELEMENT * self.elements.len() + self.data.len()
    }

    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        // Both lengths are bounded far below 32 bits.
        self.elements.push((flags, key.len() as u32, value.len() as u32));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn first_key(&self) -> Box<[u8]> {
        let length = self.elements.first().map_or(0, |&(_, key, _)| key as usize);
        self.data[..length].into()
    }

    /// The page without its head, and its count; the leaf is empty afterwards.
    fn take(&mut self) -> (u16, Vec<u8>) {
        let mut body = Vec::with_capacity(self.size() - HEAD);
        let mut at = ELEMENT * self.elements.len();
        for (index, (flags, key, value)) in self.elements.iter().enumerate() {
            // Positions count from the element itself.
            let position = (at - ELEMENT * index) as u32;
            for number in [*flags, position, *key, *value] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            at += (key + value) as usize;
        }
        // Fewer than 65,535: each takes more than its 16 bytes of one page.
        let count = self.elements.len() as u16;
        body.append(&mut self.data);
        self.elements.clear();
        (count, body)
    }
}

impl Writer {
    /// Begins at the start of `file`, which is to be empty; `path` is for error texts.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn new(file: File, path: impl Into<PathBuf>) -> Result<Writer, Error> {
        let mut writer = Writer {
            path: path.into(),
            out: BufWriter::with_capacity(OUT_BUFFER, file),
            next: FRONT,
            open: vec![Tree::default()],
        };
        let front = vec![0; FRONT as usize * PAGE_SIZE];
        writer.out.write_all(&front).map_err(|error| writer.failed(error))?;
        Ok(writer)
    }

    /// Bytes of the file so far, buffered ones included.
    pub fn size(&self) -> u64 {
        self.next * PAGE_SIZE as u64
    }

    /// Opens a bucket inside the one at hand, until [`Writer::end_bucket`].
    ///
    /// # Errors
    /// [`Error::Input`] when `name` does not follow the last key or name of the bucket around it.
    pub fn begin_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.follows(name)?;
        if let Some(tree) = self.open.last_mut() {
            tree.has_nested = true;
        }
        self.open.push(Tree { name: name.into(), ..Tree::default() });
        Ok(())
    }

    /// Adds a record to the bucket at hand; etcd keeps none in the root bucket.
    ///
    /// # Errors
    /// [`Error::Input`] for a key that does not follow the last one, or is empty or too long, or a value that is too
    /// long; [`Error::Io`], with the system's words for a full disk.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if value.len() > MAX_VALUE {
            return Err(self.refuse(format!("a value of {} bytes is too long", value.len())));
        }
        self.follows(key)?;
        self.push(0, key, value)
    }

    /// Ends the bucket at hand.
    ///
    /// # Errors
    /// [`Error::Input`] when none is open; [`Error::Io`].
    pub fn end_bucket(&mut self) -> Result<(), Error> {
        let mut tree = match self.open.pop() {
            Some(tree) if !self.open.is_empty() => tree,
            root => {
                self.open.extend(root);
                return Err(self.refuse("there is no bucket to end".to_owned()));
            }
        };
        let mut value = vec![0; BUCKET_HEAD];
        if tree.branches.is_empty() && !tree.has_nested && tree.leaf.size() <= MAX_INLINE {
            let (count, body) = tree.leaf.take();
            value.extend_from_slice(&Head { id: 0, flags: LEAF, count, overflow: 0 }.encode());
            value.extend_from_slice(&body);
        } else {
            value[..8].copy_from_slice(&self.end_tree(&mut tree)?.to_le_bytes());
        }
        self.push(BUCKET, &tree.name, &value)
    }

    /// Completes the file and gives it back with its size in bytes. Nothing is synced to disk.
    ///
    /// # Errors
    /// [`Error::Input`] when a bucket is still open; [`Error::Io`].
    pub fn finish(mut self) -> Result<(File, u64), Error> {
        let mut tree = match self.open.pop() {
            Some(root) if self.open.is_empty() => root,
            _ => return Err(self.refuse("a bucket was not ended".to_owned())),
        };
        let root = self.end_tree(&mut tree)?;
        let mut front = vec![0; FRONT as usize * PAGE_SIZE];
        for txid in [2, 1] {
            // A meta lies in the page of its transaction's parity; both say the same, and either would do alone.
            let page = txid % 2;
            let at = page as usize * PAGE_SIZE;
            let page_size = PAGE_SIZE as u32;
            let meta = Meta { page_size, root, freelist: FREELIST_PAGE, high_water: self.next, txid };
            front[at..at + HEAD].copy_from_slice(&Head { id: page, flags: META, count: 0, overflow: 0 }.encode());
            let meta = meta.encode();
            front[at + HEAD..at + HEAD + meta.len()].copy_from_slice(&meta);
        }
        let freelist = Head { id: FREELIST_PAGE, flags: FREELIST, count: 0, overflow: 0 };
        let at = FREELIST_PAGE as usize * PAGE_SIZE;
        front[at..at + HEAD].copy_from_slice(&freelist.encode());
        let size = self.size();
        let path = self.path;
        let failed = |source| Error::Io { what: "cannot write", path: path.clone(), source };
        let file = self.out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.write_all_at(&front, 0).map_err(failed)?;
        Ok((file, size))
    }

    fn follows(&mut self, key: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(self.refuse(format!("a key of {} bytes is not allowed", key.len())));
        }
        match self.open.last_mut() {
            Some(tree) if key > &tree.last[..] => {
                tree.last.clear();
                tree.last.extend_from_slice(key);
                Ok(())
            }
            _ => Err(self.refuse("its keys are not in ascending order".to_owned())),
        }
    }

    fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let Some(mut tree) = self.open.pop() else { return Err(self.refuse("it is finished".to_owned())) };
        let full = tree.leaf.size() + ELEMENT + key.len() + value.len() > PAGE_SIZE;
        let flushed = if full && !tree.leaf.elements.is_empty() { self.end_leaf(&mut tree) } else { Ok(()) };
        tree.leaf.push(flags, key, value);
        self.open.push(tree);
        flushed
    }

    fn end_leaf(&mut self, tree: &mut Tree) -> Result<(), Error> {
        let key = tree.leaf.first_key();
        let (count, body) = tree.leaf.take();
        let page = self.page(LEAF, count, &body)?;
        self.adopt(tree, 0, Child { key, page })
    }

    /// Writes what is left of the tree and returns its root page.
    fn end_tree(&mut self, tree: &mut Tree) -> Result<u64, Error> {
        self.end_leaf(tree)?;
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut tree.branches[level]);
            let is_top = level + 1 == tree.branches.len();
            match &children[..] {
                [only] if is_top => return Ok(only.page),
                _ => {
                    let child = self.branch(&children)?;
                    self.adopt(tree, level + 1, child)?;
                }
            }
            level += 1;
        }
    }

    /// Hangs a finished page into the branch level above it.
    fn adopt(&mut self, tree: &mut Tree, level: usize, child: Child) -> Result<(), Error> {
        if level == tree.branches.len() {
            tree.branches.push(Vec::new());
        }
        let children = &mut tree.branches[level];
        let size: usize = HEAD + children.iter().chain([&child]).map(|child| ELEMENT + child.key.len()).sum::<usize>();
        if size > PAGE_SIZE && children.len() >= MIN_FLUSH {
            // One stays behind, so that the next page of this level has two at least.
            let kept = children.pop();
            let full = std::mem::replace(children, kept.into_iter().chain([child]).collect());
            let parent = self.branch(&full)?;
            return self.adopt(tree, level + 1, parent);
        }
        children.push(child);
        Ok(())
    }

    fn branch(&mut self, children: &[Child]) -> Result<Child, Error> {
        let mut body = Vec::new();
        let mut at = ELEMENT * children.len();
        for (index, child) in children.iter().enumerate() {
            body.extend_from_slice(&((at - ELEMENT * index) as u32).to_le_bytes());
            body.extend_from_slice(&(child.key.len() as u32).to_le_bytes());
            body.extend_from_slice(&child.page.to_le_bytes());
            at += child.key.len();
        }
        children.iter().for_each(|child| body.extend_from_slice(&child.key));
        let page = self.page(BRANCH, children.len() as u16, &body)?;
        Ok(Child { key: children.first().map(|first| first.key.clone()).unwrap_or_default(), page })
    }

    /// Writes a page, and as many more as its content takes.
    fn page(&mut self, flags: u16, count: u16, body: &[u8]) -> Result<u64, Error> {
        let size = HEAD + body.len();
        let pages = size.div_ceil(PAGE_SIZE);
        // A value is shorter than 2 GiB, so this many pages fit.
        let head = Head { id: self.next, flags, count, overflow: pages as u32 - 1 };
        let padding = [0; PAGE_SIZE];
        let parts = [&head.encode()[..], body, &padding[..pages * PAGE_SIZE - size]];
        parts.into_iter().try_for_each(|part| self.out.write_all(part)).map_err(|error| self.failed(error))?;
        self.next += pages as u64;
        Ok(head.id)
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Io { what: "cannot write", path: self.path.clone(), source }
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Input { path: self.path.clone(), reason }
    }
}
