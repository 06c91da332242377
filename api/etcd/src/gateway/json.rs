//! Between messages and the JSON that protobuf's documentation maps them to, with etcd's choices: names as in the
//! definitions (either form is understood), what is zero is left out, what is unknown is passed over.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;

const READ: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);
const WRITE: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// Encodes what a JSON text says; no text at all is a message of zeroes. What follows the first object is not looked at,
/// as in etcd.
///
/// # Errors
/// Why it cannot be understood.
pub(super) fn to_message(kind: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, Status> {
    let Some(start) = text.iter().position(|byte| !byte.is_ascii_whitespace()) else { return Ok(Vec::new()) };
    if text[start] != b'{' {
        return Err(Status::invalid_argument(no_object(&text[start..])));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize_with_options(kind.clone(), &mut reader, &READ);
    message.map(|message| message.encode_to_vec()).map_err(|error| Status::invalid_argument(unreadable(&error)))
}

/// What begins like no object.
fn no_object(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let first = text.chars().next().unwrap_or_default();
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
    match first {
        '[' | '"' => format!("proto: syntax error (line 1:1): unexpected token {first}"),
        _ if ["null", "true", "false"].iter().any(|known| text.starts_with(known)) || first.is_ascii_digit() => {
            let token: String = text.chars().take_while(|c| word(*c)).take(32).collect();
            format!("proto: syntax error (line 1:1): unexpected token {token}")
        }
        _ => format!("invalid character {first:?} looking for beginning of value"),
    }
}

fn unreadable(error: &serde_json::Error) -> String {
    if error.is_eof() { "unexpected EOF".to_owned() } else { format!("proto: {error}") }
}

/// The JSON of an encoded message.
///
/// # Errors
/// Where the message is none of this kind, which only a defect can bring about.
pub(super) fn of_message(kind: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let defect =
        |error: &dyn std::fmt::Display| Status::internal(format!("an answer could not be translated: {error}"));
    let length = message.len();
    let message = DynamicMessage::decode(kind.clone(), message).map_err(|error| defect(&error))?;
    let mut text = Vec::with_capacity(length + (length >> 1));
    let mut writer = serde_json::Serializer::new(&mut text);
    message.serialize_with_options(&mut writer, &WRITE).map_err(|error| defect(&error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use kelson_wire::pb;
    use kelson_wire::pb::etcdserverpb::{PutRequest, RangeRequest, RangeResponse, ResponseHeader};
    use kelson_wire::pb::mvccpb::KeyValue;
    use prost_reflect::DescriptorPool;

    use super::*;

    fn kind(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(pb::DESCRIPTORS).unwrap().get_message_by_name(&format!("etcdserverpb.{name}")).unwrap()
    }

    fn range(text: &str) -> Result<RangeRequest, String> {
        let message = to_message(&kind("RangeRequest"), text.as_bytes());
        message.map(|message| RangeRequest::decode(&message[..]).unwrap()).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn requests_are_understood_in_every_form() {
        let expected = RangeRequest {
            key: b"\xfb\xff".as_slice().into(),
            range_end: "b".into(),
            limit: 100,
            sort_order: 2,
            keys_only: true,
            ..Default::default()
        };
        for text in [
            r#"{"key":"+/8=","range_end":"Yg==","limit":"100","sort_order":"DESCEND","keys_only":true}"#,
            r#"{"key":"-_8","rangeEnd":"Yg","limit":100,"sortOrder":2,"keysOnly":true,"unknown":{"a":[1]}}"#,
            " {\"key\":\"+/8\",\"range_end\":\"Yg==\",\"limit\":1e2,\"sort_order\":\"DESCEND\",\"keys_only\":true}} x",
        ] {
            assert_eq!(range(text), Ok(expected.clone()), "{text}");
        }
        assert_eq!(range(""), Ok(RangeRequest::default()));
        assert_eq!(range(r#"{"key":null,"sort_order":"NOPE"}"#), Ok(RangeRequest::default()));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for (text, said) in [
            ("xx", "invalid character 'x' looking for beginning of value"),
            ("[]", "proto: syntax error (line 1:1): unexpected token ["),
            ("null", "proto: syntax error (line 1:1): unexpected token null"),
            (r#"{"key":"#, "unexpected EOF"),
        ] {
            assert_eq!(range(text), Err(said.to_owned()), "{text}");
        }
        for text in
            [r#"{"key":"%%"}"#, r#"{"limit":"x"}"#, r#"{"limit":1.5}"#, r#"{"serializable":"true"}"#, r#"{"key":1}"#]
        {
            assert!(range(text).unwrap_err().starts_with("proto: "), "{text}");
        }
        let deep = format!("{}{}", r#"{"success":[{"request_txn":"#.repeat(200), "}]}".repeat(200));
        assert!(to_message(&kind("TxnRequest"), deep.as_bytes()).is_err());
        assert!(to_message(&kind("PutRequest"), br#"{"lease":"9223372036854775808"}"#).is_err());
    }

    #[test]
    fn answers_leave_out_zeroes_and_write_large_numbers_as_text() {
        let kv = KeyValue { key: "a".into(), value: vec![0xfb, 0xff].into(), version: 3, ..Default::default() };
        let header = ResponseHeader { cluster_id: u64::MAX, revision: -1, ..Default::default() };
        let answer = RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 1 };
        let text = of_message(&kind("RangeResponse"), answer.encode_to_vec().into()).unwrap();
        let expected = r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1"},"kvs":[{"key":"YQ==","version":"3","value":"+/8="}],"count":"1"}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(of_message(&kind("RangeResponse"), Bytes::new()).unwrap(), b"{}");
        let put = PutRequest { key: "a".into(), prev_kv: true, ..Default::default() };
        let text = of_message(&kind("PutRequest"), put.encode_to_vec().into()).unwrap();
        assert_eq!(text, br#"{"key":"YQ==","prev_kv":true}"#);
    }
}
