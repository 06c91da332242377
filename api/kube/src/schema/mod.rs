//! The shape of every object of the API, as data.
//!
//! One schema drives strict decoding, defaulting, the patch merges and OpenAPI. Its facts (field names, types, merge
//! keys, defaults) lie in `schema/data/*.txt`, one file for each API package, and are parsed once at first use.
//!
//! # The text format
//!
//! ```text
//! package apps io.k8s.api.apps.v1 apps/v1     alias, OpenAPI name prefix, group/version
//!
//! kind Deployment : What it is for.           an object that clients name by apiVersion and kind
//!   spec DeploymentSpec                       field and its shape
//!
//! type DeploymentSpec map=atomic              any other structure; map=atomic: server-side apply owns it as a whole
//!   replicas *int32 default=1
//!   template! core/PodTemplateSpec            `!`: required
//!   items []Item keep patch=merge:name list=map:name,protocol
//! ```
//!
//! A shape is a scalar (`string`, `bool`, `int32`, `int64`, `float64`, `bytes`, `time`, `microtime`, `quantity`,
//! `int-or-string`, `any`), `string(Name)` for a string that upstream gives a type name, `[]shape`, `{}shape` (a map from
//! strings) or the name of a structure, with `alias/` before it if it is from another package. `*` before a shape marks
//! an optional value whose zero is not the same as its absence; other zero values are not written unless the field says
//! `keep` (upstream's `omitempty`). Flags:
//!
//! | flag | meaning |
//! |---|---|
//! | `keep` | written even if it is the zero value |
//! | `omitzero` | a structure that is absent when nothing set it |
//! | `patch=S` or `patch=S:key` | strategic merge: `merge`, `replace`, `retainKeys` or `merge,retainKeys`, and the merge key |
//! | `list=S` | server-side apply's view of a list: `atomic`, `set` or `map:key,key` |
//! | `map=atomic` | server-side apply replaces the map or structure as a whole |
//! | `default=JSON` | the value that an absent field takes |

mod parse;
pub mod quantity;

use std::sync::LazyLock;

use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::defaults::Hook;

/// A structure: a kind of object, or a part of one.
#[derive(Debug)]
pub struct Type {
    /// Name within its package, which is also the Go type's name: `DeploymentSpec`.
    pub name: &'static str,
    /// Index of its package in [`packages`].
    package: usize,
    /// Whether clients name it by `apiVersion` and `kind`.
    pub is_kind: bool,
    /// What a kind is for, in one sentence; empty for other structures.
    pub description: &'static str,
    /// Whether server-side apply owns it as a whole.
    pub atomic: bool,
    /// The fields, ordered by name.
    pub fields: Vec<Field>,
    /// Indices of the fields that are written even if nobody set them, because Go cannot leave them out.
    pub(crate) fills: Vec<usize>,
    /// Whether defaulting may change it or something below it.
    pub(crate) defaulting: bool,
    /// The computed part of its defaults.
    pub(crate) hook: Option<Hook>,
}

/// A field of a [`Type`].
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether the API documents it as required.
    pub required: bool,
    /// Whether its zero value differs from its absence.
    pub optional: bool,
    /// Whether its zero value is written.
    pub keep: bool,
    /// How a strategic merge patch treats it.
    pub patch: Patch,
    /// How server-side apply treats it, if it is a list.
    pub list: ListKind,
    /// Whether server-side apply replaces it as a whole, if it is a map or structure.
    pub atomic: bool,
    /// The value that it takes when absent.
    pub default: Option<Value>,
}

/// What a field, list element or map value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string, with its Go type's name: `string`, or a named one such as `v1.Protocol`.
    String(&'static str),
    Bool,
    Int32,
    Int64,
    Float64,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON at all.
    Any,
    List(Box<Shape>),
    Map(Box<Shape>),
    /// A structure; see [`Shape::structure`].
    Struct(usize),
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists are merged rather than replaced.
    pub merge: bool,
    /// The patch may name the keys to keep (`$retainKeys`).
    pub retain_keys: bool,
    /// `patchStrategy=replace` was given in so many words.
    pub replace: bool,
    /// The field that tells the elements of a merged list apart; absent for lists of scalars.
    pub key: Option<&'static str>,
}

/// How server-side apply treats a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// Nothing said, which means atomic.
    #[default]
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// Scalars, each one owned by itself.
    Set,
    /// Structures told apart by these fields.
    Map(Vec<&'static str>),
}

/// An API package: the types of one group and version.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Short name used by the data files.
    pub alias: &'static str,
    /// Prefix of its types' names in OpenAPI.
    pub prefix: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
}

/// Everything that the data files say.
#[derive(Debug)]
struct Schema {
    packages: Vec<Package>,
    types: Vec<Type>,
    /// From group, version and kind.
    kinds: FxHashMap<(&'static str, &'static str, &'static str), usize>,
}

const FILES: [&str; 9] = [
    include_str!("data/meta.txt"),
    include_str!("data/core.txt"),
    include_str!("data/apps.txt"),
    include_str!("data/batch.txt"),
    include_str!("data/coordination.txt"),
    include_str!("data/discovery.txt"),
    include_str!("data/policy.txt"),
    include_str!("data/autoscaling.txt"),
    include_str!("data/authentication.txt"),
];

/// A mistake in the built-in files leaves an empty schema, which the tests of this module refuse.
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    parse::parse(&FILES).unwrap_or_else(|error| {
        tracing::error!(%error, "the built-in schema does not parse");
        Schema { packages: Vec::new(), types: Vec::new(), kinds: FxHashMap::default() }
    })
});

/// The structure of a kind of object; `group` is empty for the core group.
///
/// The kinds that belong to every group (`DeleteOptions`, `Status`) are found under each group and version.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let schema = &*SCHEMA;
    // The map's keys are 'static; a shorter borrow is enough to look one up.
    let found = schema.kinds.get(&(group, version, kind)).or_else(|| match kind {
        "DeleteOptions" | "Status" => schema.kinds.get(&("", "v1", kind)),
        _ => None,
    })?;
    schema.types.get(*found)
}

/// A structure by its package's alias and its name (`core`, `PodSpec`), for code that starts below an object.
pub fn structure(alias: &str, name: &str) -> Option<&'static Type> {
    SCHEMA.types.iter().find(|ty| ty.name == name && ty.package().alias == alias)
}

/// Every structure, grouped by package.
pub fn types() -> &'static [Type] {
    &SCHEMA.types
}

/// Every package.
pub fn packages() -> &'static [Package] {
    &SCHEMA.packages
}

impl Type {
    /// The field of that JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|at| &self.fields[at])
    }

    /// Where it belongs.
    pub fn package(&self) -> &'static Package {
        &SCHEMA.packages[self.package]
    }

    /// API group of a kind; empty for the core group.
    pub fn group(&self) -> &'static str {
        self.package().group
    }

    /// API version of a kind.
    pub fn version(&self) -> &'static str {
        self.package().version
    }

    /// Its name in OpenAPI documents: `io.k8s.api.apps.v1.Deployment`.
    pub fn openapi_name(&self) -> String {
        format!("{}.{}", self.package().prefix, self.name)
    }
}

impl Shape {
    /// The structure that it holds, if it holds one.
    pub fn structure(&self) -> Option<&'static Type> {
        match self {
            Shape::Struct(at) => SCHEMA.types.get(*at),
            _ => None,
        }
    }

    /// The name of the Go type, as Kubernetes' error messages give it.
    pub fn go_name(&self) -> String {
        match self {
            Shape::String(name) => (*name).to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Float64 => "float64".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::Any => "runtime.RawExtension".to_owned(),
            Shape::List(item) => format!("[]{}", item.go_name()),
            Shape::Map(item) => match &**item {
                Shape::Quantity => "v1.ResourceList".to_owned(),
                item => format!("map[string]{}", item.go_name()),
            },
            Shape::Struct(_) => match self.structure() {
                Some(ty) => format!("v1.{}", ty.name),
                None => "struct".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
