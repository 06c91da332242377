//! An opened file and its buckets. Every number in it is checked before it is used.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::cursor::{Cursor, Node};
use crate::format::{BUCKET_HEAD, COUNT_OVERFLOW, FREELIST, HEAD, Head, META_BYTES, Meta, NO_FREELIST, u64_at};
use crate::{Error, Marks};

/// Where the second meta may lie: bbolt tries page sizes of 1 KiB to 16 MiB.
const SECOND_META: std::ops::RangeInclusive<u32> = 0..=14;

/// A file open for reading. Reads go to the file, a page at a time; whoever changes the file meanwhile gets errors.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    file: File,
    meta: Meta,
    /// Pages that the file is long enough for.
    pages: u64,
}

/// Where a bucket's records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket(pub(crate) Place);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the tree under this page.
    Page(u64),
    /// In this copy of an inline page, of which the named page held the original.
    Inline(u64, Vec<u8>),
}

impl Db {
    /// Opens a file. What follows its last page, such as a snapshot's checksum, is left alone.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Foreign`] when neither of its metas is intact; [`Error::Damaged`] when it is cut short.
    pub fn open(path: impl AsRef<Path>) -> Result<Db, Error> {
        let path = path.as_ref();
        let failed = |source| Error::Io { what: "cannot open", path: path.to_owned(), source };
        Db::of(File::open(path).map_err(failed)?, path)
    }

    /// [`Db::open`] on an open file; `path` is for error texts.
    ///
    /// # Errors
    /// As [`Db::open`].
    pub fn of(file: File, path: impl Into<PathBuf>) -> Result<Db, Error> {
        let path = path.into();
        let length = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(source) => return Err(Error::Io { what: "cannot read", path, source }),
        };
        let meta = match newest_meta(&file) {
            Ok(meta) => meta,
            Err(reason) => return Err(Error::Foreign { path, reason: reason.to_owned() }),
        };
        let pages = length / u64::from(meta.page_size);
        if meta.high_water > pages {
            let reason =
                format!("the file is cut short: it has {pages} whole pages and should have {}", meta.high_water);
            return Err(Error::Damaged { path, page: meta.high_water - 1, reason });
        }
        Ok(Db { path, file, meta, pages })
    }

    /// The file's name, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all pages: what bbolt calls the size of the database. The file may be longer.
    pub fn size(&self) -> u64 {
        self.meta.high_water * u64::from(self.meta.page_size)
    }

    /// Pages of the file that may be in use.
    pub(crate) fn high_water(&self) -> u64 {
        self.meta.high_water
    }

    /// The bucket that holds the others.
    pub fn root(&self) -> Bucket {
        Bucket(Place::Page(self.meta.root))
    }

    /// The bucket called `name` in the root bucket.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        let mut cursor = self.cursor(&self.root());
        while let Some(item) = cursor.next()? {
            if item.key == name {
                return item.bucket();
            }
        }
        Ok(None)
    }

    /// The records of a bucket, in order.
    pub fn cursor(&self, bucket: &Bucket) -> Cursor<'_> {
        Cursor::new(self, bucket.clone(), None)
    }

    /// The same, noting in `marks` which pages they lie in; a page that is noted already is an error.
    pub fn cursor_marking<'a>(&'a self, bucket: &Bucket, marks: &'a Marks) -> Cursor<'a> {
        Cursor::new(self, bucket.clone(), Some(marks))
    }

    /// Reads a page with all that belong to it.
    pub(crate) fn node(&self, id: u64, marks: Option<&Marks>) -> Result<Node, Error> {
        let (head, bytes) = self.read(id)?;
        if let Some(marks) = marks {
            marks.reach(id, head.overflow).map_err(|reason| self.damaged(id, reason))?;
        }
        Node::parse(id, bytes).map_err(|reason| self.damaged(id, reason))
    }

    fn read(&self, id: u64) -> Result<(Head, Vec<u8>), Error> {
        if !(2..self.meta.high_water).contains(&id) {
            return Err(self.damaged(id, "it is referred to and lies outside of the file"));
        }
        let page_size = u64::from(self.meta.page_size);
        let mut bytes = vec![0; self.meta.page_size as usize];
        self.read_at(&mut bytes, id * page_size)?;
        // The smallest page is longer than a head.
        let head = Head::decode(&bytes).ok_or_else(|| self.damaged(id, "it has no head"))?;
        if head.id != id {
            return Err(self.damaged(id, format!("it calls itself page {}", head.id)));
        }
        if head.overflow > 0 {
            let end = id + 1 + u64::from(head.overflow);
            if end > self.meta.high_water || end > self.pages {
                return Err(self.damaged(id, "its content goes on past the end of the file"));
            }
            let first = bytes.len();
            bytes.resize(((end - id) * page_size) as usize, 0);
            self.read_at(&mut bytes[first..], (id + 1) * page_size)?;
        }
        Ok((head, bytes))
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), Error> {
        let failed = |source| Error::Io { what: "cannot read", path: self.path.clone(), source };
        self.file.read_exact_at(bytes, at).map_err(failed)
    }

    /// Pages that are free, and notes the freelist's own in `marks`.
    pub(crate) fn freelist(&self, marks: &Marks) -> Result<Option<Vec<u64>>, Error> {
        let id = self.meta.freelist;
        if id == NO_FREELIST {
            return Ok(None);
        }
        let (head, bytes) = self.read(id)?;
        if head.flags != FREELIST {
            return Err(self.damaged(id, "the list of free pages is not one"));
        }
        marks.reach(id, head.overflow).map_err(|reason| self.damaged(id, reason))?;
        let numbers = &bytes[HEAD..];
        let (skip, count) = match head.count {
            COUNT_OVERFLOW => (1, u64_at(numbers, 0).unwrap_or(u64::MAX)),
            count => (0, u64::from(count)),
        };
        let count = usize::try_from(count).ok().filter(|count| *count <= (numbers.len() / 8).saturating_sub(skip));
        let count = count.ok_or_else(|| self.damaged(id, "the list of free pages is longer than its page"))?;
        let ids = (skip..skip + count).filter_map(|index| u64_at(numbers, index * 8));
        Ok(Some(ids.collect()))
    }

    pub(crate) fn damaged(&self, page: u64, reason: impl Into<String>) -> Error {
        Error::Damaged { path: self.path.clone(), page, reason: reason.into() }
    }
}

impl Bucket {
    /// What a leaf's value of the page `holder` says.
    pub(crate) fn decode(holder: u64, value: &[u8]) -> Result<Bucket, &'static str> {
        let root = u64_at(value, 0).filter(|_| value.len() >= BUCKET_HEAD).ok_or("a bucket's head is cut short")?;
        Ok(Bucket(match root {
            0 => Place::Inline(holder, value[BUCKET_HEAD..].to_vec()),
            page => Place::Page(page),
        }))
    }
}

/// The intact meta of the latest transaction.
fn newest_meta(file: &File) -> Result<Meta, &'static str> {
    let read = |at: u64| {
        let mut bytes = [0; HEAD + META_BYTES];
        file.read_exact_at(&mut bytes, at).map_err(|_| "it is too short")?;
        Meta::decode(&bytes[HEAD..])
    };
    match read(0) {
        Ok(first) => Ok(match read(u64::from(first.page_size)) {
            Ok(second) if second.txid > first.txid && second.page_size == first.page_size => second,
            _ => first,
        }),
        // Without the first nothing says where the second lies.
        Err(reason) => SECOND_META
            .map(|shift| 1024_u64 << shift)
            .find_map(|at| read(at).ok().filter(|meta| u64::from(meta.page_size) == at))
            .ok_or(reason),
    }
}
