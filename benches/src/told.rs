//! What a load client reads of a watch's answer: how many events, and the value of each. Decoding all of it would cost
//! the client more than telling it costs a server.

use crate::error::Error;

/// Numbers of fields: the events of a `WatchResponse`, an event's key with its value, and the value of that.
const EVENTS: u64 = 11;
const KV: u64 = 2;
const VALUE: u64 = 5;

/// Visits the value of each event of an encoded `WatchResponse`, if it has one; returns the number of events.
///
/// # Errors
/// If it is no such message.
pub fn events(answer: &[u8], mut visit: impl FnMut(Option<&[u8]>)) -> Result<u64, Error> {
    let mut count = 0;
    let read = fields(answer, |number, event| {
        if number != EVENTS {
            return Some(());
        }
        let mut value = None;
        fields(event, |number, kv| match number {
            KV => fields(kv, |number, found| {
                if number == VALUE {
                    value = Some(found);
                }
                Some(())
            }),
            _ => Some(()),
        })?;
        count += 1;
        visit(value);
        Some(())
    });
    read.map(|()| count)
        .ok_or_else(|| Error::Answer(format!("an answer of a watch that cannot be read: {} bytes", answer.len())))
}

/// Visits the fields of a message that are bytes or messages; `None` where it is none, or `visit` says so.
fn fields<'a>(mut message: &'a [u8], mut visit: impl FnMut(u64, &'a [u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => _ = varint(&mut message)?,
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (field, rest) = message.split_at_checked(length)?;
                message = rest;
                visit(key >> 3, field)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use kelson_wire::pb::etcdserverpb::{ResponseHeader, WatchResponse};
    use kelson_wire::pb::mvccpb::{Event, KeyValue};
    use prost::Message;

    use super::*;

    fn answer() -> WatchResponse {
        let event = |(r#type, length): (i32, usize)| {
            let kv = KeyValue {
                key: "key".into(),
                mod_revision: 1 << 40,
                value: vec![7; length].into(),
                ..Default::default()
            };
            Event { r#type, prev_kv: Some(KeyValue { value: "before".into(), ..kv.clone() }), kv: Some(kv) }
        };
        WatchResponse {
            header: Some(ResponseHeader { revision: 300, ..Default::default() }),
            watch_id: 7,
            events: [(0, 8), (0, 300), (1, 0)].map(event).into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_value_of_every_event_is_found_and_that_of_none_before_it() {
        let mut values = Vec::new();
        let count = events(&answer().encode_to_vec(), |value| values.push(value.map(<[u8]>::to_vec))).unwrap();
        assert_eq!((count, values), (3, vec![Some(vec![7; 8]), Some(vec![7; 300]), None]));
        let bare = WatchResponse { events: Vec::new(), canceled: true, ..answer() };
        assert_eq!(events(&bare.encode_to_vec(), |_| panic!("no event")).unwrap(), 0);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = answer().encode_to_vec();
        let last = WatchResponse { events: answer().events[..2].to_vec(), ..answer() }.encoded_len();
        for length in last + 1..whole.len() {
            assert!(events(&whole[..length], |_| {}).is_err(), "{length} of {}", whole.len());
        }
        assert!(events(&[0xff; 20], |_| {}).is_err());
    }
}
