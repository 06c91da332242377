//! Request bodies in Kubernetes' protobuf form: kubectl's typed commands (`create job`, `create namespace`) and Go
//! clients send nothing else.
//!
//! A body is `k8s\0` and a `runtime.Unknown` with `apiVersion`, `kind` and the encoded object. The schema says what a
//! field holds; `numbers.txt` says which number it has: a line for each structure with its package's alias, its name,
//! and `field=number`. `number{…}` is a message of its own whose fields JSON shows one level up.
//!
//! Answers are always JSON, which these clients accept too.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kelson_wire::kube::timestamp;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use crate::schema::{self, Field, Shape, Type};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; objects of the API are far shallower.
const MAX_DEPTH: usize = 64;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType { wire: u8, field: &'static str },
    #[error("proto: a string is no UTF-8 (field {0})")]
    NotUtf8(&'static str),
    #[error("proto: the message is nested too deeply")]
    TooDeep,
    #[error("no kind \"{kind}\" is registered for version \"{version}\" in scheme")]
    UnknownKind { version: String, kind: String },
    #[error("proto: embedded JSON is malformed (field {0})")]
    Embedded(&'static str),
}

/// What a field number stands for.
#[derive(Clone)]
enum Slot {
    Field(&'static Field),
    Inline(Numbers),
}

type Numbers = FxHashMap<u32, Slot>;

/// The numbers of every structure, by its address: types are static.
static NUMBERS: LazyLock<FxHashMap<(&'static str, &'static str), Numbers>> = LazyLock::new(|| {
    let mut all = FxHashMap::default();
    for line in include_str!("numbers.txt").lines() {
        let mut words = line.split(' ');
        let (Some(alias), Some(name)) = (words.next(), words.next()) else { continue };
        if let Some(ty) = schema::structure(alias, name) {
            all.insert((alias, name), numbers(ty, &mut words));
        }
    }
    all
});

/// Reads `field=1 2{inner=1}` up to the end of the line, or to the brace that closes.
fn numbers(ty: &'static Type, words: &mut std::str::Split<'static, char>) -> Numbers {
    let mut found = Numbers::default();
    while let Some(mut word) = words.next() {
        if let Some((number, first)) = word.split_once('{') {
            // The first inner field is glued to its brace.
            let mut inner = Numbers::default();
            let mut closed = field(ty, first, &mut inner);
            while !closed {
                let Some(word) = words.next() else { break };
                closed = field(ty, word, &mut inner);
            }
            if let Ok(number) = number.parse() {
                found.insert(number, Slot::Inline(inner));
            }
            continue;
        }
        word = word.trim();
        field(ty, word, &mut found);
    }
    found
}

/// Reads `field=1` or the last one of a brace, `field=1}`; returns whether it was that.
fn field(ty: &'static Type, word: &str, found: &mut Numbers) -> bool {
    let (word, closed) = word.strip_suffix('}').map_or((word, false), |word| (word, true));
    if let Some((name, number)) = word.split_once('=')
        && let (Some(field), Ok(number)) = (ty.field(name), number.parse())
    {
        found.insert(number, Slot::Field(field));
    }
    closed
}

/// Decodes a whole body into an object with `apiVersion` and `kind`.
///
/// # Errors
/// If it is no such body, or of a kind that is not known.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let body = body.strip_prefix(MAGIC).ok_or(DecodeError::NoMagic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &body[..0]);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.key()? {
        match number {
            1 => {
                let mut meta = Reader(reader.bytes(wire, "typeMeta")?);
                while let Some((number, wire)) = meta.key()? {
                    match number {
                        1 => version = meta.string(wire, "apiVersion")?,
                        2 => kind = meta.string(wire, "kind")?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            2 => raw = reader.bytes(wire, "raw")?,
            _ => reader.skip(wire)?,
        }
    }
    let (group, short) = version.split_once('/').unwrap_or(("", &version));
    let Some(ty) = schema::kind(group, short, &kind) else { return Err(DecodeError::UnknownKind { version, kind }) };
    let mut object = Map::new();
    message(raw, ty, &mut object, MAX_DEPTH)?;
    object.insert("apiVersion".into(), version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn message(buffer: &[u8], ty: &'static Type, to: &mut Map<String, Value>, depth: usize) -> Result<(), DecodeError> {
    match NUMBERS.get(&(ty.package().alias, ty.name)) {
        Some(numbers) => fields(buffer, numbers, to, depth),
        None => Ok(()),
    }
}

fn fields(buffer: &[u8], numbers: &Numbers, to: &mut Map<String, Value>, depth: usize) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
    let mut reader = Reader(buffer);
    while let Some((number, wire)) = reader.key()? {
        match numbers.get(&number) {
            None => reader.skip(wire)?,
            Some(Slot::Inline(inner)) => fields(reader.bytes(wire, "inline")?, inner, to, depth)?,
            Some(Slot::Field(field)) => member(&mut reader, wire, field, to, depth)?,
        }
    }
    Ok(())
}

fn member(
    reader: &mut Reader<'_>,
    wire: u8,
    field: &'static Field,
    to: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    match &field.shape {
        Shape::List(item) => {
            let list = to.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            list.push(value(reader, wire, item, field.name, depth)?);
        }
        Shape::Map(item) => {
            let map = to.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Ok(()) };
            let mut entry = Reader(reader.bytes(wire, field.name)?);
            let (mut key, mut content) = (String::new(), None);
            while let Some((number, wire)) = entry.key()? {
                match number {
                    1 => key = entry.string(wire, field.name)?,
                    2 => content = Some(value(&mut entry, wire, item, field.name, depth)?),
                    _ => entry.skip(wire)?,
                }
            }
            map.insert(key, content.unwrap_or_else(|| crate::validate::zero_value(item)));
        }
        shape => {
            let value = value(reader, wire, shape, field.name, depth)?;
            to.insert(field.name.into(), value);
        }
    }
    Ok(())
}

fn value(
    reader: &mut Reader<'_>,
    wire: u8,
    shape: &Shape,
    name: &'static str,
    depth: usize,
) -> Result<Value, DecodeError> {
    Ok(match shape {
        Shape::String(_) => reader.string(wire, name)?.into(),
        Shape::Bool => (reader.varint_of(wire, name)? != 0).into(),
        // Negative numbers travel as their 64-bit two's complement.
        Shape::Int32 | Shape::Int64 => (reader.varint_of(wire, name)? as i64).into(),
        Shape::Float64 => reader.double(wire, name)?.into(),
        Shape::Bytes => STANDARD.encode(reader.bytes(wire, name)?).into(),
        Shape::Time => time(reader.bytes(wire, name)?, name, false)?,
        Shape::MicroTime => time(reader.bytes(wire, name)?, name, true)?,
        Shape::Quantity => {
            let mut inner = Reader(reader.bytes(wire, name)?);
            let mut text = String::new();
            while let Some((number, wire)) = inner.key()? {
                if number == 1 {
                    text = inner.string(wire, name)?;
                } else {
                    inner.skip(wire)?;
                }
            }
            text.into()
        }
        Shape::IntOrString => {
            let mut inner = Reader(reader.bytes(wire, name)?);
            let (mut kind, mut number_value, mut text) = (0, 0, String::new());
            while let Some((number, wire)) = inner.key()? {
                match number {
                    1 => kind = inner.varint_of(wire, name)?,
                    2 => number_value = inner.varint_of(wire, name)? as i64,
                    3 => text = inner.string(wire, name)?,
                    _ => inner.skip(wire)?,
                }
            }
            if kind == 0 { number_value.into() } else { text.into() }
        }
        Shape::Any => {
            // `RawExtension` and `FieldsV1`: JSON text in field 1.
            let mut inner = Reader(reader.bytes(wire, name)?);
            let mut raw: &[u8] = &[];
            while let Some((number, wire)) = inner.key()? {
                if number == 1 {
                    raw = inner.bytes(wire, name)?;
                } else {
                    inner.skip(wire)?;
                }
            }
            if raw.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(raw).map_err(|_| DecodeError::Embedded(name))?
            }
        }
        Shape::List(item) => {
            // A list as a map's value is a message with the elements in field 1.
            let mut inner = Reader(reader.bytes(wire, name)?);
            let mut list = Vec::new();
            let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
            while let Some((number, wire)) = inner.key()? {
                if number == 1 {
                    list.push(value(&mut inner, wire, item, name, depth)?);
                } else {
                    inner.skip(wire)?;
                }
            }
            Value::Array(list)
        }
        Shape::Map(_) => {
            reader.skip(wire)?;
            Value::Null
        }
        Shape::Struct(_) => {
            let buffer = reader.bytes(wire, name)?;
            let mut object = Map::new();
            if let Some(ty) = shape.structure() {
                message(buffer, ty, &mut object, depth)?;
            }
            Value::Object(object)
        }
    })
}

/// A `Time`: seconds and nanoseconds. An empty message is the zero time, which JSON shows as null.
fn time(buffer: &[u8], name: &'static str, micro: bool) -> Result<Value, DecodeError> {
    let mut reader = Reader(buffer);
    let (mut seconds, mut nanos) = (None, 0);
    while let Some((number, wire)) = reader.key()? {
        match number {
            1 => seconds = Some(reader.varint_of(wire, name)? as i64),
            2 => nanos = reader.varint_of(wire, name)?,
            _ => reader.skip(wire)?,
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    let at = u64::try_from(seconds).ok().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)));
    // Times before 1970 or beyond the calendar mean nothing in an object's life.
    Ok(at.map_or(Value::Null, |at| if micro { timestamp::format_micro(at) } else { timestamp::format(at) }.into()))
}

/// Reads the wire format.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Field number and wire type of the next field; `None` at the end.
    fn key(&mut self) -> Result<Option<(u32, u8)>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| DecodeError::Truncated)?;
        Ok(Some((number, (key & 7) as u8)))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (position, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (position * 7);
            if byte & 0x80 == 0 {
                self.0 = &self.0[position + 1..];
                return Ok(value);
            }
        }
        Err(DecodeError::Truncated)
    }

    fn varint_of(&mut self, wire: u8, field: &'static str) -> Result<u64, DecodeError> {
        if wire == 0 { self.varint() } else { Err(DecodeError::WireType { wire, field }) }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn bytes(&mut self, wire: u8, field: &'static str) -> Result<&'a [u8], DecodeError> {
        if wire != 2 {
            return Err(DecodeError::WireType { wire, field });
        }
        let length = self.varint()?;
        self.take(length)
    }

    fn string(&mut self, wire: u8, field: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(wire, field)?;
        std::str::from_utf8(bytes).map(String::from).map_err(|_| DecodeError::NotUtf8(field))
    }

    fn double(&mut self, wire: u8, field: &'static str) -> Result<f64, DecodeError> {
        if wire != 1 {
            return Err(DecodeError::WireType { wire, field });
        }
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().map_err(|_| DecodeError::Truncated)?))
    }

    fn skip(&mut self, wire: u8) -> Result<(), DecodeError> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.take(8).map(drop),
            2 => self.bytes(wire, "").map(drop),
            5 => self.take(4).map(drop),
            _ => Err(DecodeError::WireType { wire, field: "unknown" }),
        }
    }
}

#[cfg(test)]
mod tests;
