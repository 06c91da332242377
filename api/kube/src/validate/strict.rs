//! Reading JSON and YAML into values while noting fields that are there twice.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::path::{Path, Segment};

/// At most this many strict errors are told for one object, as in Kubernetes.
pub const MAX_STRICT_ERRORS: usize = 100;

/// Parses JSON. The second part of the result has one message (`duplicate field "spec.x"`) for each field that is there
/// more than once; the last of them counts.
///
/// # Errors
/// If the text is not one JSON value.
pub fn parse_strict(json: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = parse_from(&mut deserializer)?;
    deserializer.end()?;
    Ok(parsed)
}

/// Parses one YAML document in the same way.
///
/// # Errors
/// If the text is not one YAML document that JSON can express.
pub fn parse_strict_yaml(yaml: &[u8]) -> Result<(Value, Vec<String>), serde_yaml_ng::Error> {
    parse_from(serde_yaml_ng::Deserializer::from_slice(yaml))
}

fn parse_from<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Value, Vec<String>), D::Error> {
    let duplicates = RefCell::default();
    let value = Seed { path: &Path::ROOT, duplicates: &duplicates }.deserialize(deserializer)?;
    Ok((value, duplicates.into_inner()))
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    path: &'a Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = self.path.push(Segment::Index(items.len()));
            match access.next_element_seed(Seed { path: &path, duplicates: self.duplicates })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(Key)? {
            let path = self.path.push(Segment::Key(&key));
            let value = access.next_value_seed(Seed { path: &path, duplicates: self.duplicates })?;
            if map.contains_key(&key) {
                let mut duplicates = self.duplicates.borrow_mut();
                if duplicates.len() < MAX_STRICT_ERRORS {
                    duplicates.push(format!("duplicate field {:?}", path.to_string()));
                }
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A map's key; YAML's numbers and booleans become strings, as its conversion to JSON has it.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<String, E> {
        Number::from_f64(value).map(|number| number.to_string()).ok_or_else(|| E::custom("number is not finite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn notes_duplicates_with_their_paths_and_keeps_the_last() {
        let (value, duplicates) =
            parse_strict(br#"{"spec":{"x":1,"list":[{"a":1},{"a":1,"a":2}],"x":2},"spec2":null}"#).unwrap();
        assert_eq!(value, json!({"spec": {"x": 2, "list": [{"a": 1}, {"a": 2}]}, "spec2": null}));
        assert_eq!(duplicates, [r#"duplicate field "spec.list[1].a""#, r#"duplicate field "spec.x""#]);
    }

    #[test]
    fn the_plain_parse_is_the_same() {
        let text = br#"{"a":[1,-2,3.5,"x",true,null,{"b":{}}],"c":18446744073709551615}"#;
        let (value, duplicates) = parse_strict(text).unwrap();
        assert_eq!(value, serde_json::from_slice::<Value>(text).unwrap());
        assert_eq!(duplicates, Vec::<String>::new());
        assert!(parse_strict(b"{} x").is_err());
        assert!(parse_strict(b"{\"a\":").is_err());
    }

    #[test]
    fn reads_yaml_with_odd_keys() {
        let (value, duplicates) = parse_strict_yaml(b"a: 1\n8080: x\ntrue: y\na: 2\n").unwrap();
        assert_eq!(value, json!({"a": 2, "8080": "x", "true": "y"}));
        assert_eq!(duplicates, [r#"duplicate field "a""#]);
    }
}
