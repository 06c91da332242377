//! Answers as lines of text. What differs between any two clusters is checked here and left out.

use kelson_wire::pb::etcdserverpb::response_op::Response;
use kelson_wire::pb::etcdserverpb::{
    DeleteRangeResponse, MemberListResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, StatusResponse,
    TxnResponse, WatchResponse,
};
use kelson_wire::pb::mvccpb::{Event, KeyValue};
use tonic::Status;

/// The revision of a header that says from where it is.
pub fn revision(header: &Option<ResponseHeader>) -> String {
    let header = header.as_ref().expect("every answer has a header");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
    format!("rev={}", header.revision)
}

/// A part of a transaction's answer need not say from where it is.
fn part(header: &Option<ResponseHeader>) -> String {
    let header = header.as_ref().expect("every part has a header");
    assert!(header.cluster_id == 0 && header.member_id == 0 && header.raft_term == 0, "{header:?}");
    format!("rev={}", header.revision)
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 40 {
        return format!("<{} bytes>", bytes.len());
    }
    String::from_utf8_lossy(bytes).replace('\0', "\\0")
}

/// `key=value c<create revision> m<modification revision> v<version> [l<lease>]`
pub fn kv(kv: &KeyValue) -> String {
    let lease = if kv.lease == 0 { String::new() } else { format!(" l{}", kv.lease) };
    let (create, modified) = (kv.create_revision, kv.mod_revision);
    format!("{}={} c{create} m{modified} v{}{lease}", text(&kv.key), text(&kv.value), kv.version)
}

pub fn failure(status: &Status) -> Vec<String> {
    vec![format!("! {:?} {}", status.code(), status.message())]
}

pub fn range(response: &RangeResponse) -> Vec<String> {
    range_lines(revision(&response.header), response)
}

fn range_lines(revision: String, response: &RangeResponse) -> Vec<String> {
    let more = if response.more { " more" } else { "" };
    let mut lines = vec![format!("{revision} count={}{more}", response.count)];
    lines.extend(response.kvs.iter().map(kv));
    lines
}

pub fn put(response: &PutResponse) -> Vec<String> {
    put_lines(revision(&response.header), response)
}

fn put_lines(revision: String, response: &PutResponse) -> Vec<String> {
    let mut lines = vec![revision];
    lines.extend(response.prev_kv.iter().map(|before| format!("was {}", kv(before))));
    lines
}

pub fn delete(response: &DeleteRangeResponse) -> Vec<String> {
    delete_lines(revision(&response.header), response)
}

fn delete_lines(revision: String, response: &DeleteRangeResponse) -> Vec<String> {
    let mut lines = vec![format!("{revision} deleted={}", response.deleted)];
    lines.extend(response.prev_kvs.iter().map(|before| format!("was {}", kv(before))));
    lines
}

pub fn txn(response: &TxnResponse) -> Vec<String> {
    txn_lines(revision(&response.header), response)
}

fn txn_lines(revision: String, response: &TxnResponse) -> Vec<String> {
    let mut lines = vec![format!("{revision} {}", if response.succeeded { "succeeded" } else { "failed" })];
    for ResponseOp { response } in &response.responses {
        let (name, of_op) = match response.as_ref().expect("every operation has an answer") {
            Response::ResponseRange(response) => ("range", range_lines(part(&response.header), response)),
            Response::ResponsePut(response) => ("put", put_lines(part(&response.header), response)),
            Response::ResponseDeleteRange(response) => ("delete", delete_lines(part(&response.header), response)),
            // A nested transaction's own header may be incomplete or absent.
            Response::ResponseTxn(response) => {
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                ("txn", txn_lines(format!("rev={revision}"), response))
            }
        };
        let mut of_op = of_op.into_iter();
        lines.push(format!("- {name} {}", of_op.next().expect("a first line")));
        lines.extend(of_op.map(|line| format!("  {line}")));
    }
    lines
}

/// Without what differs between any two clusters: sizes, indexes, the patch of the version.
pub fn status(status: &StatusResponse) -> Vec<String> {
    let header = status.header.as_ref().expect("every answer has a header");
    let leads = status.leader == header.member_id && status.raft_term == header.raft_term;
    let indexes = status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index;
    let sizes = status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size;
    let minor = status.version.rsplit_once('.').map_or("", |(minor, _)| minor);
    let line = format!("{} version={minor} leads={leads} indexes={indexes} sizes={sizes}", revision(&status.header));
    vec![format!("{line} storage={} learner={} errors={:?}", status.storage_version, status.is_learner, status.errors)]
}

pub fn members(list: &MemberListResponse) -> Vec<String> {
    let header = list.header.as_ref().expect("every answer has a header");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
    // A list of members has no revision.
    let mut lines = vec![format!("rev={} members={}", header.revision, list.members.len())];
    for member in &list.members {
        let itself = member.id == header.member_id;
        let (named, peers, clients) = (!member.name.is_empty(), member.peer_ur_ls.len(), member.client_ur_ls.len());
        lines.push(format!(
            "itself={itself} named={named} peers={peers} clients={clients} learner={}",
            member.is_learner
        ));
    }
    lines
}

/// Each thing that the answer says, after the watch that it is about.
pub fn watch(response: &WatchResponse) -> Vec<(i64, String)> {
    let id = response.watch_id;
    if response.created || response.canceled {
        let mut line = String::new();
        if response.created {
            line += " created";
        }
        if response.canceled {
            line += " canceled";
        }
        if response.created && !response.canceled {
            line = format!("{line} {}", revision(&response.header));
        }
        if response.compact_revision != 0 {
            line += &format!(" compacted={}", response.compact_revision);
        }
        if !response.cancel_reason.is_empty() {
            line += &format!(" reason={:?}", response.cancel_reason);
        }
        return vec![(id, format!("{id}:{line}"))];
    }
    if response.events.is_empty() {
        return vec![(id, format!("{id}: progress {}", revision(&response.header)))];
    }
    let told = response.header.as_ref().expect("every answer has a header").revision;
    let last = response.events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
    assert!(told >= last, "an event of revision {last} under a header of {told}");
    response.events.iter().map(|event| (id, format!("{id}: {}", self::event(event)))).collect()
}

fn event(event: &Event) -> String {
    let now = event.kv.as_ref().expect("every event has a key");
    let before = event.prev_kv.as_ref().map_or(String::new(), |before| format!(" was {}", kv(before)));
    let kind = if event.r#type == 1 { "delete" } else { "put" };
    format!("{kind} {}{before}", kv(now))
}
