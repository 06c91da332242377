//! The grammar of a request's line.
//!
//! Words are separated by spaces. A word `name=value` or a known bare name is an option; the others are, in order, the
//! key, the range's end or the value. `""` is the empty word, `\0` in a word a zero byte, `*N` a word of N letters x.
//!
//! ```text
//! put KEY VALUE [lease=N] [prev_kv] [ignore_value] [ignore_lease]
//! range | stream KEY [END] [limit=N] [rev=N] [order=asc|desc|N] [by=key|version|create|mod|value|N] [keys_only] …
//! delete KEY [END] [prev_kv]
//! txn if [ COMPARE ; … ] then [ OP ; … ] else [ OP ; … ]      COMPARE: version|create|mod|value|lease KEY =|!=|<|> X [END]
//! compact REVISION [physical]
//! settle    writes and deletes the first key of every open watch, and reads all streams until each has told of it
//! ops N     a transaction of N puts
//! grant ID TTL    revoke ID    keepalive ID    ttl ID [keys]    leases
//! status    members [linearizable]    health [SERVICE]
//! login NAME PASSWORD    as NAME | nobody | token TEXT
//! auth enable | disable | status    may METHOD
//! user add NAME [PASSWORD] [no_password] | get | delete NAME | list | passwd NAME PASSWORD | grant | revoke NAME ROLE
//! role add | get | delete NAME | list | grant NAME read|write|readwrite|N KEY [END] | revoke NAME KEY [END]
//! watch STREAM create KEY [END] [start=N] [prev_kv] [progress] [noput] [nodelete] [fragment] [id=N] [wait]
//! watch STREAM cancel ID [wait] | progress | read N | settle     (the same for one stream)
//! ```

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::watch_create_request::FilterType;
use kelson_wire::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};

/// A request's words.
pub struct Words<'a> {
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub fn new(words: Vec<&'a str>) -> Self {
        Self { words }
    }

    /// The value of the option `name=value`.
    pub fn option(&self, name: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    pub fn number(&self, name: &str) -> i64 {
        self.option(name).map_or(0, |value| value.parse().unwrap())
    }

    pub fn has(&self, name: &str) -> bool {
        self.words.contains(&name)
    }

    /// The word at a place among those that are no options.
    pub fn plain(&self, at: usize) -> Bytes {
        const BARE: [&str; 14] = [
            "prev_kv",
            "ignore_value",
            "ignore_lease",
            "keys_only",
            "count_only",
            "serializable",
            "physical",
            "keys",
            "progress",
            "noput",
            "nodelete",
            "fragment",
            "wait",
            "linearizable",
        ];
        let is_option =
            |word: &str| BARE.contains(&word) || word.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        let mut plain = self.words.iter().filter(|word| !is_option(word));
        plain.nth(at).map_or(Bytes::new(), |word| bytes(word))
    }
}

fn bytes(word: &str) -> Bytes {
    if word == "\"\"" {
        return Bytes::new();
    }
    if let Some(length) = word.strip_prefix('*').and_then(|length| length.parse().ok()) {
        return Bytes::from(vec![b'x'; length]);
    }
    Bytes::from(word.replace("\\0", "\0"))
}

pub fn range(words: &Words) -> RangeRequest {
    let named = |names: &[&str], option: &str| {
        let given = words.option(option).unwrap_or(names[0]);
        match names.iter().position(|name| *name == given) {
            Some(number) => number as i32,
            None => given.parse().unwrap(),
        }
    };
    RangeRequest {
        key: words.plain(0),
        range_end: words.plain(1),
        limit: words.number("limit"),
        revision: words.number("rev"),
        sort_order: named(&["none", "asc", "desc"], "order"),
        sort_target: named(&["key", "version", "create", "mod", "value"], "by"),
        serializable: words.has("serializable"),
        keys_only: words.has("keys_only"),
        count_only: words.has("count_only"),
        min_mod_revision: words.number("min_mod"),
        max_mod_revision: words.number("max_mod"),
        min_create_revision: words.number("min_create"),
        max_create_revision: words.number("max_create"),
    }
}

pub fn put(words: &Words) -> PutRequest {
    PutRequest {
        key: words.plain(0),
        value: words.plain(1),
        lease: words.number("lease"),
        prev_kv: words.has("prev_kv"),
        ignore_value: words.has("ignore_value"),
        ignore_lease: words.has("ignore_lease"),
    }
}

pub fn delete(words: &Words) -> DeleteRangeRequest {
    DeleteRangeRequest { key: words.plain(0), range_end: words.plain(1), prev_kv: words.has("prev_kv") }
}

pub fn create(words: &Words) -> WatchCreateRequest {
    let mut filters = Vec::new();
    for (name, filter) in [("noput", FilterType::Noput), ("nodelete", FilterType::Nodelete)] {
        if words.has(name) {
            filters.push(filter.into());
        }
    }
    WatchCreateRequest {
        key: words.plain(0),
        range_end: words.plain(1),
        start_revision: words.number("start"),
        progress_notify: words.has("progress"),
        filters,
        prev_kv: words.has("prev_kv"),
        watch_id: words.number("id"),
        fragment: words.has("fragment"),
    }
}

pub fn first_key(create: &WatchCreateRequest) -> Bytes {
    if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key.clone() }
}

/// Whether a watch tells of a key's change.
pub fn tells(create: &WatchCreateRequest, key: &[u8], deleted: bool) -> bool {
    let filter = if deleted { FilterType::Nodelete } else { FilterType::Noput };
    within(&first_key(create), &create.range_end, key) && !create.filters.contains(&filter.into())
}

/// Whether a key is in a range.
pub fn within(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        [] => start == key,
        [0] => start <= key,
        end => start <= key && key < end,
    }
}

/// A transaction without its first word.
pub fn txn(words: &[&str]) -> TxnRequest {
    let mut request = TxnRequest::default();
    let mut rest = words;
    while let Some((part, tail)) = rest.split_first() {
        let (items, after) = list(tail);
        match *part {
            "if" => request.compare = items.into_iter().map(compare).collect(),
            "then" => request.success = items.into_iter().map(op).collect(),
            "else" => request.failure = items.into_iter().map(op).collect(),
            other => panic!("a transaction has no part {other:?}"),
        }
        rest = after;
    }
    request
}

/// The items of a bracketed list, and what follows it.
fn list<'a, 'b>(words: &'b [&'a str]) -> (Vec<&'b [&'a str]>, &'b [&'a str]) {
    assert_eq!(words[0], "[", "a list begins with a bracket");
    let mut items = Vec::new();
    let (mut depth, mut start) = (1, 1);
    for at in 1..words.len() {
        match words[at] {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && words[at] == ";") {
            if at > start {
                items.push(&words[start..at]);
            }
            start = at + 1;
        }
        if depth == 0 {
            return (items, &words[at + 1..]);
        }
    }
    panic!("a list has no end: {words:?}");
}

fn op(words: &[&str]) -> RequestOp {
    let rest = Words::new(words[1..].to_vec());
    let request = match words[0] {
        "range" => Some(Request::RequestRange(range(&rest))),
        "put" => Some(Request::RequestPut(put(&rest))),
        "delete" => Some(Request::RequestDeleteRange(delete(&rest))),
        "txn" => Some(Request::RequestTxn(txn(&words[1..]))),
        "nothing" => None,
        other => panic!("no operation {other:?}"),
    };
    RequestOp { request }
}

fn compare(words: &[&str]) -> Compare {
    let [target, key, result, value, end @ ..] = words else { panic!("not a comparison: {words:?}") };
    let number = || value.parse().unwrap();
    let (target, union) = match *target {
        "version" => (CompareTarget::Version, TargetUnion::Version(number())),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number())),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number())),
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(value))),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number())),
        other => panic!("nothing to compare: {other:?}"),
    };
    let result = match *result {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        other => panic!("no comparison {other:?}"),
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(key),
        target_union: Some(union),
        range_end: end.first().map_or(Bytes::new(), |end| bytes(end)),
    }
}
