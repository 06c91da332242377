//! The version 2 document in protobuf: the `openapi.v2.Document` message of gnostic, which is what kubectl falls back to
//! for a kind that no version 3 document knows. Field numbers are facts of that format.
//!
//! What no client reads from it (responses, tags, security) is left out; the JSON form has it all.

use serde_json::{Map, Value};

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number as u8) | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn flag(&mut self, field: u64, value: bool) {
        if value {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// Writes a member of `object` if it is a string.
    fn text(&mut self, field: u64, object: &Value, member: &str) {
        if let Some(text) = object[member].as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, message: Message) {
        self.bytes(field, &message.0);
    }

    /// A pair of name (field 1) and value (field 2), as gnostic writes maps.
    fn named(&mut self, field: u64, name: &str, value: Message) {
        let mut pair = Message::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(field, pair);
    }

    /// The `x-…` members of an object; each value as YAML, of which JSON is a part.
    fn extensions(&mut self, field: u64, object: &Value) {
        for (name, value) in members(object).filter(|(name, _)| name.starts_with("x-")) {
            self.named(field, name, any(value));
        }
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

/// The whole document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, document, "swagger");
    let mut info = Message::default();
    info.text(1, &document["info"], "title");
    info.text(2, &document["info"], "version");
    message.message(2, info);
    let mut paths = Message::default();
    for (path, item) in members(&document["paths"]) {
        paths.named(2, path, path_item(item));
    }
    message.message(8, paths);
    let mut definitions = Message::default();
    for (name, definition) in members(&document["definitions"]) {
        definitions.named(1, name, schema(definition));
    }
    message.message(9, definitions);
    message.0
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if item[method].is_object() {
            message.message(field, operation(&item[method]));
        }
    }
    parameters(&mut message, 9, item);
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message.text(5, operation, "operationId");
    for (field, member) in [(6, "produces"), (7, "consumes")] {
        for media_type in items(&operation[member]).filter_map(Value::as_str) {
            message.bytes(field, media_type.as_bytes());
        }
    }
    parameters(&mut message, 8, operation);
    message.extensions(13, operation);
    message
}

fn parameters(message: &mut Message, field: u64, of: &Value) {
    for parameter in items(&of["parameters"]) {
        let mut inner = Message::default();
        inner.flag(1, parameter["required"].as_bool().unwrap_or(false));
        inner.text(2, parameter, "in");
        inner.text(3, parameter, "description");
        inner.text(4, parameter, "name");
        let place = match parameter["in"].as_str() {
            Some("query") => 3,
            Some("path") => 4,
            // A body says nothing that a client of this form reads.
            _ => continue,
        };
        // After the name, a query parameter has one field more than a path parameter (whether it may be empty).
        inner.text(if place == 3 { 6 } else { 5 }, parameter, "type");
        let mut non_body = Message::default();
        non_body.message(place, inner);
        let mut wrapped = Message::default();
        wrapped.message(2, non_body);
        let mut item = Message::default();
        item.message(1, wrapped);
        message.message(field, item);
    }
}

fn schema(schema_value: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, schema_value, "$ref");
    message.text(2, schema_value, "format");
    message.text(4, schema_value, "description");
    if !schema_value["default"].is_null() {
        message.message(5, any(&schema_value["default"]));
    }
    for name in items(&schema_value["required"]).filter_map(Value::as_str) {
        message.bytes(19, name.as_bytes());
    }
    match &schema_value["additionalProperties"] {
        Value::Null => {}
        Value::Bool(allowed) => {
            let mut item = Message::default();
            item.flag(2, *allowed);
            message.message(21, item);
        }
        values => {
            let mut item = Message::default();
            item.message(1, schema(values));
            message.message(21, item);
        }
    }
    if let Some(kind) = schema_value["type"].as_str() {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        message.message(22, item);
    }
    if schema_value["items"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&schema_value["items"]));
        message.message(23, item);
    }
    if schema_value["properties"].is_object() {
        let mut properties = Message::default();
        for (name, property) in members(&schema_value["properties"]) {
            properties.named(1, name, schema(property));
        }
        message.message(25, properties);
    }
    message.extensions(31, schema_value);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The first length-delimited field along a path of field numbers.
    fn at<'a>(mut bytes: &'a [u8], path: &[u64]) -> Option<&'a [u8]> {
        fn varint(bytes: &mut &[u8]) -> Option<u64> {
            let mut number = 0;
            for shift in (0..64).step_by(7) {
                let (&byte, rest) = bytes.split_first()?;
                *bytes = rest;
                number |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return Some(number);
                }
            }
            None
        }
        let Some((wanted, rest)) = path.split_first() else { return Some(bytes) };
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let length = varint(&mut bytes)? as usize;
            if key & 7 != 2 {
                continue;
            }
            let (body, after) = bytes.split_at_checked(length)?;
            if key >> 3 == *wanted {
                return at(body, rest);
            }
            bytes = after;
        }
        None
    }

    #[test]
    fn writes_fields_where_gnostic_reads_them() {
        let document = json!({
            "swagger": "2.0",
            "info": {"title": "t", "version": "v"},
            "paths": {"/p": {"patch": {
                "operationId": "patchP",
                "parameters": [{"in": "body", "name": "body"}, {"in": "query", "name": "fieldValidation", "type": "string"}],
                "x-kubernetes-group-version-kind": {"kind": "P"},
            }}},
            "definitions": {"A": {
                "type": "object",
                "required": ["b"],
                "properties": {"b": {"type": "array", "items": {"$ref": "#/definitions/B"}}},
                "x-k": [1],
            }},
        });
        let encoded = encode(&document);
        let found = |path: &[u64]| at(&encoded, path).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        assert_eq!((found(&[1]), found(&[2, 2])), ("2.0".into(), "v".into()));
        assert_eq!((found(&[8, 2, 1]), found(&[8, 2, 2, 8, 5])), ("/p".into(), "patchP".into()));
        assert_eq!(found(&[8, 2, 2, 8, 8, 1, 2, 3, 4]), "fieldValidation");
        assert_eq!(found(&[8, 2, 2, 8, 13, 2, 2]), "{\"kind\":\"P\"}");
        assert_eq!((found(&[9, 1, 1]), found(&[9, 1, 2, 22, 1])), ("A".into(), "object".into()));
        assert_eq!((found(&[9, 1, 2, 19]), found(&[9, 1, 2, 25, 1, 1])), ("b".into(), "b".into()));
        assert_eq!(found(&[9, 1, 2, 25, 1, 2, 23, 1, 1]), "#/definitions/B");
        assert_eq!((found(&[9, 1, 2, 31, 1]), found(&[9, 1, 2, 31, 2, 2])), ("x-k".into(), "[1]".into()));
    }
}
