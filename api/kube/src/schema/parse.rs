//! Reads the schema's text format (described in the parent module).

use rustc_hash::FxHashMap;
use serde_json::Value;

use super::{Field, ListKind, Package, Patch, Schema, Shape, Type};
use crate::defaults;

/// Parses the files in order; a name may refer to a structure of a later file.
pub(super) fn parse(files: &[&'static str]) -> Result<Schema, String> {
    let mut packages = Vec::new();
    let mut types: Vec<Type> = Vec::new();
    let mut names = FxHashMap::default();
    let mut kinds = FxHashMap::default();
    // Names first, so that shapes can be resolved in one go after.
    for text in files {
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "package" => packages.push(package(rest).ok_or_else(|| format!("bad package line {line:?}"))?),
                "kind" | "type" => {
                    let package: &Package = packages.last().ok_or("a type before the package line")?;
                    let ty = head(word == "kind", rest, packages.len() - 1);
                    if names.insert((package.alias, ty.name), types.len()).is_some() {
                        return Err(format!("{}/{} is there twice", package.alias, ty.name));
                    }
                    if ty.is_kind {
                        kinds.insert((package.group, package.version, ty.name), types.len());
                    }
                    types.push(ty);
                }
                _ => {}
            }
        }
    }
    let mut at = None;
    for line in files.iter().flat_map(|text| text.lines()) {
        match line.strip_prefix("  ") {
            Some(line) => {
                let ty: &mut Type =
                    at.and_then(|at: usize| types.get_mut(at)).ok_or("a field before the first type")?;
                let alias = packages[ty.package].alias;
                let field =
                    field(line, alias, &names).ok_or_else(|| format!("{}: bad field line {line:?}", ty.name))?;
                ty.fields.push(field);
            }
            None if line.starts_with("kind ") || line.starts_with("type ") => at = Some(at.map_or(0, |at| at + 1)),
            None => {}
        }
    }
    for ty in &mut types {
        ty.fields.sort_by_key(|field| field.name);
        ty.fills = (0..ty.fields.len()).filter(|at| is_filled(&ty.fields[*at])).collect();
        ty.hook = defaults::hook(packages[ty.package].alias, ty.name);
        ty.defaulting = ty.hook.is_some() || ty.fields.iter().any(|field| field.default.is_some());
    }
    spread_defaulting(&mut types);
    Ok(Schema { packages, types, kinds })
}

/// Whether Go writes the field when nobody set it: a structure by value, or a scalar without `omitempty`.
fn is_filled(field: &Field) -> bool {
    !field.optional
        && field.default.is_none()
        && match field.shape {
            Shape::Struct(_) | Shape::Quantity => true,
            Shape::String(_) | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64 => field.keep,
            _ => false,
        }
}

/// A structure takes part in defaulting if something that it holds does.
fn spread_defaulting(types: &mut [Type]) {
    loop {
        let changed: Vec<usize> = (0..types.len())
            .filter(|at| !types[*at].defaulting)
            .filter(|at| {
                types[*at].fields.iter().any(|field| inner(&field.shape).is_some_and(|held| types[held].defaulting))
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        for at in changed {
            types[at].defaulting = true;
        }
    }
}

fn inner(shape: &Shape) -> Option<usize> {
    match shape {
        Shape::Struct(at) => Some(*at),
        Shape::List(item) | Shape::Map(item) => inner(item),
        _ => None,
    }
}

fn package(rest: &'static str) -> Option<Package> {
    let mut words = rest.split(' ');
    let (alias, prefix, group_version) = (words.next()?, words.next()?, words.next()?);
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    Some(Package { alias, prefix, group, version })
}

fn head(is_kind: bool, rest: &'static str, package: usize) -> Type {
    let (head, description) = rest.split_once(" : ").unwrap_or((rest, ""));
    let (name, flags) = head.split_once(' ').unwrap_or((head, ""));
    Type {
        name,
        package,
        is_kind,
        description,
        atomic: flags.contains("map=atomic"),
        fields: Vec::new(),
        fills: Vec::new(),
        defaulting: false,
        hook: None,
    }
}

type Names = FxHashMap<(&'static str, &'static str), usize>;

fn field(line: &'static str, alias: &'static str, names: &Names) -> Option<Field> {
    let (line, default) = match line.split_once(" default=") {
        Some((line, json)) => (line, Some(serde_json::from_str::<Value>(json).ok()?)),
        None => (line, None),
    };
    let mut words = line.split(' ');
    let name = words.next()?;
    let (name, required) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
    let shape_text = words.next()?;
    let (shape_text, optional) = shape_text.strip_prefix('*').map_or((shape_text, false), |text| (text, true));
    let shape = shape(shape_text, alias, names)?;
    let mut field = Field {
        name,
        shape,
        required,
        optional,
        keep: false,
        patch: Patch::default(),
        list: ListKind::Unset,
        atomic: false,
        default,
    };
    for word in words {
        match word.split_once('=') {
            None if word == "keep" => field.keep = true,
            None if word == "omitzero" => field.optional = true,
            Some(("patch", text)) => {
                let (strategies, key) = text.split_once(':').map_or((text, None), |(text, key)| (text, Some(key)));
                field.patch.key = key;
                for strategy in strategies.split(',') {
                    match strategy {
                        "merge" => field.patch.merge = true,
                        "retainKeys" => field.patch.retain_keys = true,
                        "replace" => field.patch.replace = true,
                        _ => return None,
                    }
                }
            }
            Some(("list", "atomic")) => field.list = ListKind::Atomic,
            Some(("list", "set")) => field.list = ListKind::Set,
            Some(("list", text)) => field.list = ListKind::Map(text.strip_prefix("map:")?.split(',').collect()),
            Some(("map", "atomic")) => field.atomic = true,
            _ => return None,
        }
    }
    Some(field)
}

fn shape(text: &'static str, alias: &'static str, names: &Names) -> Option<Shape> {
    if let Some(item) = text.strip_prefix("[]") {
        return Some(Shape::List(Box::new(shape(item, alias, names)?)));
    }
    if let Some(item) = text.strip_prefix("{}") {
        return Some(Shape::Map(Box::new(shape(item, alias, names)?)));
    }
    if let Some(name) = text.strip_prefix("string(").and_then(|text| text.strip_suffix(')')) {
        return Some(Shape::String(name));
    }
    Some(match text {
        "string" => Shape::String("string"),
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "float64" => Shape::Float64,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "quantity" => Shape::Quantity,
        "int-or-string" => Shape::IntOrString,
        "any" => Shape::Any,
        name => Shape::Struct(*names.get(&name.split_once('/').unwrap_or((alias, name)))?),
    })
}
