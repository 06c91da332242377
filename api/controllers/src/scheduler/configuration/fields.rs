//! Reads a tree strictly: every member is asked for by name, and what nobody asked for is an error.

use serde_json::{Map, Value};

/// What is wrong with a file, all of it at once.
#[derive(Debug, Default)]
pub struct Complaints {
    /// Fields that do not exist, by their paths.
    unknown: Vec<String>,
    /// Values that may not be so, each with its field.
    invalid: Vec<String>,
}

impl Complaints {
    /// `field: Invalid value: value: why`.
    pub fn invalid(&mut self, path: &str, value: impl std::fmt::Display, why: &str) {
        self.invalid.push(format!("{path}: Invalid value: {value}: {why}"));
    }

    /// A complaint in words of its own.
    pub fn say(&mut self, text: String) {
        self.invalid.push(text);
    }

    /// As one line, in the order of kube-scheduler: what is no field comes before what is no value.
    ///
    /// # Errors
    /// If there is anything to complain about.
    pub fn into_result(self) -> Result<(), String> {
        if !self.unknown.is_empty() {
            let unknown: Vec<String> = self.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
            return Err(format!("strict decoding error: {}", unknown.join(", ")));
        }
        match self.invalid.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// The members of one object.
pub struct Fields<'a> {
    path: String,
    members: Map<String, Value>,
    complaints: &'a mut Complaints,
}

impl<'a> Fields<'a> {
    /// Reads `value`, which is found at `path` (empty at the top); `null` has no members.
    pub fn of(path: impl Into<String>, value: Value, complaints: &'a mut Complaints) -> Fields<'a> {
        let path = path.into();
        let members = match value {
            Value::Object(members) => members,
            Value::Null => Map::new(),
            other => {
                complaints.say(format!("{path}: Invalid value: {other}: must be an object"));
                Map::new()
            }
        };
        Fields { path, members, complaints }
    }

    /// Where a member is.
    pub fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// Takes a member, `null` where it is absent.
    pub fn take(&mut self, name: &str) -> Value {
        self.members.remove(name).unwrap_or(Value::Null)
    }

    /// Takes an object to read on.
    pub fn object(&mut self, name: &str) -> Fields<'_> {
        let (path, value) = (self.at(name), self.take(name));
        Fields::of(path, value, self.complaints)
    }

    /// Takes a list, and reads each of its objects.
    pub fn each(&mut self, name: &str, mut read: impl FnMut(Fields<'_>)) {
        let path = self.at(name);
        match self.take(name) {
            Value::Null => {}
            Value::Array(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    read(Fields::of(format!("{path}[{at}]"), item, self.complaints));
                }
            }
            other => self.complaints.invalid(&path, other, "must be a list"),
        }
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.typed(name, "must be a string", |value| value.as_str().map(String::from))
    }

    /// Takes a truth value.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.typed(name, "must be true or false", Value::as_bool)
    }

    /// Takes a whole number.
    pub fn number(&mut self, name: &str) -> Option<i64> {
        self.typed(name, "must be an integer", Value::as_i64)
    }

    /// Takes a whole number between two bounds.
    pub fn number_in(&mut self, name: &str, least: i64, most: i64) -> Option<i64> {
        let number = self.number(name)?;
        if number < least || number > most {
            let path = self.at(name);
            self.complaints.invalid(&path, number, &format!("not in valid range [{least}-{most}]"));
            return None;
        }
        Some(number)
    }

    /// Takes a list of texts.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        self.typed(name, "must be a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(String::from)).collect()
        })
    }

    fn typed<T>(&mut self, name: &str, why: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(name);
        if value.is_null() {
            return None;
        }
        let typed = read(&value);
        if typed.is_none() {
            let path = self.at(name);
            self.complaints.invalid(&path, value, why);
        }
        typed
    }

    /// Complains about a member.
    pub fn invalid(&mut self, name: &str, value: impl std::fmt::Display, why: &str) {
        let path = self.at(name);
        self.complaints.invalid(&path, value, why);
    }

    /// Complains in words of its own.
    pub fn say(&mut self, text: String) {
        self.complaints.say(text);
    }
}

impl Drop for Fields<'_> {
    /// What nobody asked for is no field.
    fn drop(&mut self) {
        for name in std::mem::take(&mut self.members).keys() {
            let path = self.at(name);
            self.complaints.unknown.push(path);
        }
    }
}
