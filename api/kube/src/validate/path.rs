//! Field paths, built on the stack and written out only when there is something to say.

use std::fmt;

/// One step of a path.
#[derive(Clone, Copy, Debug)]
pub enum Segment<'a> {
    /// Nothing: the root.
    Root,
    /// A field of a structure.
    Field(&'a str),
    /// An entry of a map, written as a field is.
    Key(&'a str),
    /// An entry of a map, written `[key]` as validation does.
    Entry(&'a str),
    /// An element of a list.
    Index(usize),
}

/// A path from the root of an object: `spec.containers[0].ports`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

impl<'a> Path<'a> {
    /// The object itself.
    pub const ROOT: Path<'static> = Path { parent: None, segment: Segment::Root };

    /// The path one step further.
    pub fn push<'b>(&'b self, segment: Segment<'b>) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), segment }
    }

    /// A field below this path.
    pub fn field<'b>(&'b self, name: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        self.push(Segment::Field(name))
    }

    /// An element of the list at this path.
    pub fn index(&self, at: usize) -> Path<'_> {
        self.push(Segment::Index(at))
    }

    /// An entry of the map at this path, written `[key]`.
    pub fn entry<'b>(&'b self, key: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        self.push(Segment::Entry(key))
    }

    /// The path as Go's JSON decoder gives it: fields only.
    pub fn go(&self) -> String {
        let mut text = self.parent.map(Path::go).unwrap_or_default();
        if let Segment::Field(name) = self.segment {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        }
        text
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) | Segment::Key(name) => {
                if self.parent.is_some_and(|parent| !matches!(parent.segment, Segment::Root)) {
                    f.write_str(".")?;
                }
                f.write_str(name)
            }
            Segment::Entry(key) => write!(f, "[{key}]"),
            Segment::Index(at) => write!(f, "[{at}]"),
        }
    }
}
