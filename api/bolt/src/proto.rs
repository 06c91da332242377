//! As much of the protobuf encoding as etcd's records need: fields in ascending order, zero values left out, as Go's
//! library writes them.

/// Appends fields to a message.
pub(crate) struct Message<'a>(pub &'a mut Vec<u8>);

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Message<'_> {
    pub fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            varint(self.0, u64::from(field) << 3);
            varint(self.0, value);
        }
    }

    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.element(field, value);
        }
    }

    /// An element of a list, or a message that is there: written even when empty.
    pub fn element(&mut self, field: u32, value: &[u8]) {
        varint(self.0, u64::from(field) << 3 | 2);
        varint(self.0, value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub fn number(self) -> Result<u64, &'static str> {
        match self {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) => Err("a field has the wrong type"),
        }
    }

    pub fn bytes(self) -> Result<&'a [u8], &'static str> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => Err("a field has the wrong type"),
        }
    }

    pub fn text(self) -> Result<String, &'static str> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "a text is not UTF-8")
    }
}

/// The fields of an encoded message, in the order that they come in.
pub(crate) struct Fields<'a>(pub &'a [u8]);

const CUT: &str = "it is cut short";

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(CUT)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], &'static str> {
        let length = usize::try_from(length).map_err(|_| CUT)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and content.
    pub fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return Err("a field has an unknown type"),
        };
        Ok(Some((tag >> 3, value)))
    }
}
