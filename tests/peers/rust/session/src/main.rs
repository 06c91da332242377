//! A session of etcd-client, with the server's Lock and Election services. Prints what it sees; revisions are those of a
//! store that was empty before.

mod poll;

use std::time::Duration;

use etcd_client::*;
use tokio::io::{AsyncBufReadExt, BufReader};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn endpoint() -> String {
    std::env::args().nth(1).expect("an endpoint")
}

async fn connect(user: Option<(&str, &str)>) -> Result<Client, Error> {
    let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(10));
    let options = match user {
        Some((name, password)) => options.with_user(name, password),
        None => options,
    };
    Client::connect([endpoint()], Some(options)).await
}

/// The text of a refusal.
fn refusal<T>(answer: Result<T, Error>) -> String {
    match answer {
        Ok(_) => "none".to_owned(),
        Err(Error::GRpcStatus(status)) => format!("{:?} {}", status.code(), status.message()),
        Err(other) => other.to_string(),
    }
}

fn pair(kv: &KeyValue) -> String {
    let (key, value) = (kv.key_str().expect("text"), kv.value_str().expect("text"));
    format!("{key}={value} c{} m{} v{}", kv.create_revision(), kv.mod_revision(), kv.version())
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.expect("a header").revision()
}

async fn basics(client: &mut Client) -> Outcome {
    println!("put rev {}", revision(client.put("a", "1", None).await?.header()));
    let put = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await?;
    println!("put rev {} was {}", revision(put.header()), put.prev_key().expect("it was there").value_str()?);
    println!("get {}", pair(&client.get("a", None).await?.kvs()[0]));
    let old = client.get("a", Some(GetOptions::new().with_revision(2))).await?;
    println!("get old {} rev {}", old.kvs()[0].value_str()?, revision(old.header()));
    println!("get none {}", client.get("none", None).await?.count());
    let future = client.get("a", Some(GetOptions::new().with_revision(1000))).await;
    println!("get future: {}", refusal(future));
    println!("put nothing: {}", refusal(client.put("", "x", None).await));
    for i in 0..25 {
        client.put(format!("p/{i:02}"), i.to_string(), None).await?;
    }
    let options = GetOptions::new().with_prefix().with_limit(2).with_sort(SortTarget::Key, SortOrder::Descend);
    let last = client.get("p/", Some(options)).await?;
    println!("last two {} {} of {}", last.kvs()[0].key_str()?, last.kvs()[1].key_str()?, last.count());
    let counted = client.get("p/2", Some(GetOptions::new().with_from_key().with_count_only())).await?;
    println!("from key {}", counted.count());
    let (mut from, mut paged) = (b"p/".to_vec(), 0);
    loop {
        let page = client.get(from, Some(GetOptions::new().with_range("p0").with_limit(10))).await?;
        paged += page.kvs().len();
        println!("page of {} left {} more {}", page.kvs().len(), page.count(), page.more());
        if !page.more() {
            break;
        }
        from = [page.kvs()[page.kvs().len() - 1].key(), &[0]].concat();
    }
    println!("paged {paged}");
    let options = DeleteOptions::new().with_prefix().with_prev_key();
    let deleted = client.delete("p/1", Some(options)).await?;
    println!("deleted {} first was {}", deleted.deleted(), deleted.prev_kvs()[0].value_str()?);
    client.compact(revision(deleted.header()), Some(CompactionOptions::new().with_physical())).await?;
    let compacted = client.get("a", Some(GetOptions::new().with_revision(2))).await;
    println!("get compacted: {}", refusal(compacted));
    Ok(())
}

async fn transactions(client: &mut Client) -> Outcome {
    let nested = Txn::new().and_then([TxnOp::put("nested", "1", None)]);
    let txn = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "2"), Compare::create_revision("none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("t", "yes", None), TxnOp::get("a", None), TxnOp::txn(nested)])
        .or_else([TxnOp::put("t", "no", None)]);
    let answer = client.txn(txn).await?;
    println!("txn {} {} rev {}", answer.succeeded(), answer.op_responses().len(), revision(answer.header()));
    let txn = Txn::new()
        .when([Compare::version("t", CompareOp::Greater, 5)])
        .and_then([TxnOp::put("t", "no", None)])
        .or_else([TxnOp::get("t", None)]);
    let answer = client.txn(txn).await?;
    let TxnOpResponse::Get(got) = &answer.op_responses()[0] else { return Err("not a get".into()) };
    println!("txn {} {}", answer.succeeded(), got.kvs()[0].value_str()?);
    let twice = Txn::new().and_then([TxnOp::put("t", "1", None), TxnOp::put("t", "2", None)]);
    println!("txn twice: {}", refusal(client.txn(twice).await));
    Ok(())
}

async fn sizes(client: &mut Client) -> Outcome {
    client.put("large", "x".repeat(1 << 20), None).await?;
    println!("large {}", client.get("large", None).await?.kvs()[0].value().len());
    println!("too large: {}", refusal(client.put("large", "x".repeat(3 << 19), None).await));
    client.delete("large", None).await?;
    Ok(())
}

async fn leases(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(2, None).await?;
    println!("lease for {}", lease.ttl());
    let mut gone = client.watch("leased", None).await?;
    client.put("leased", "1", Some(PutOptions::new().with_lease(lease.id()))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await?;
    // Longer than the lease would live without.
    let mut rhythm = tokio::time::interval(Duration::from_millis(700));
    for _ in 0..5 {
        rhythm.tick().await;
        keeper.keep_alive().await?;
        let ttl = answers.message().await?.ok_or("the stream goes on")?.ttl();
        assert_eq!(ttl, 2);
    }
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(lease.id(), Some(options)).await?;
    println!("alive {} keys {}", left.ttl() >= 0, left.keys().len());
    'watch: while let Some(answer) = gone.message().await? {
        for event in answer.events() {
            if event.event_type() == EventType::Delete {
                println!("expired {}", event.kv().ok_or("a key")?.key_str()?);
                break 'watch;
            }
        }
    }
    println!("left {}", client.lease_time_to_live(lease.id(), None).await?.ttl());
    let attach = client.put("leased", "1", Some(PutOptions::new().with_lease(lease.id()))).await;
    println!("attach: {}", refusal(attach));
    let other = client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(77))).await?;
    client.put("leased", "2", Some(PutOptions::new().with_lease(other.id()))).await?;
    println!("leases {}", client.leases().await?.leases().len());
    println!("again: {}", refusal(client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(77))).await));
    client.lease_revoke(other.id()).await?;
    println!("revoked {}", client.get("leased", None).await?.count());
    Ok(())
}

async fn locks(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(60, None).await?.id();
    let first = client.lock("lock", Some(LockOptions::new().with_lease(lease))).await?;
    let key = String::from_utf8(first.key().to_vec())?;
    println!("locked under {}", key.split_once('/').ok_or("a path")?.0);
    let mut waiting = client.lock_client();
    let waits = tokio::spawn(async move { waiting.lock("lock", None).await });
    client.unlock(first.key()).await?;
    let second = waits.await??;
    println!("lock passed on {}", second.key() != first.key());
    client.unlock(second.key()).await?;

    let one = client.campaign("elect", "one", lease).await?;
    let leader = one.leader().ok_or("a leader")?.clone();
    println!("leader {}", client.leader("elect").await?.kv().ok_or("a value")?.value_str()?);
    client.proclaim("one again", Some(ProclaimOptions::new().with_leader(leader.clone()))).await?;
    let mut observed = client.observe("elect").await?;
    let seen = observed.message().await?.ok_or("it goes on")?;
    println!("leader {}", seen.kv().ok_or("a value")?.value_str()?);
    let mut follower = client.election_client();
    let other = client.lease_grant(60, None).await?.id();
    let waits = tokio::spawn(async move { follower.campaign("elect", "other", other).await });
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    let two = waits.await??;
    println!("leader {}", client.leader("elect").await?.kv().ok_or("a value")?.value_str()?);
    let leader = two.leader().ok_or("a leader")?.clone();
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    println!("nobody: {}", refusal(client.leader("elect").await));
    client.lease_revoke(lease).await?;
    client.lease_revoke(other).await?;
    Ok(())
}

async fn auth(client: &mut Client) -> Outcome {
    println!("enable: {}", refusal(client.auth_enable().await));
    client.role_add("reader").await?;
    client.role_grant_permission("reader", Permission::read("p/").with_prefix()).await?;
    for (user, password, role) in [("root", "secret", "root"), ("joe", "pass", "reader")] {
        client.user_add(user, password, None).await?;
        client.user_grant_role(user, role).await?;
    }
    client.auth_enable().await?;
    println!("unnamed: {}", refusal(client.get("p/00", None).await));
    let mut joe = connect(Some(("joe", "pass"))).await?;
    println!("joe reads {}", joe.get("p/00", None).await?.kvs()[0].value_str()?);
    println!("joe writes: {}", refusal(joe.put("p/00", "x", None).await));
    println!("joe reads elsewhere: {}", refusal(joe.get("a", None).await));
    println!("wrong password: {}", refusal(connect(Some(("joe", "wrong"))).await));
    let mut root = connect(Some(("root", "secret"))).await?;
    println!("users {:?} roles {:?}", root.user_list().await?.users(), root.role_list().await?.roles());
    root.auth_disable().await?;
    println!("open again {}", client.get("p/00", None).await?.count());
    Ok(())
}

async fn restarts(client: &mut Client) -> Outcome {
    let mut watch = client.watch("w/", Some(WatchOptions::new().with_prefix())).await?;
    client.put("w/1", "before", None).await?;
    let mut last = 0;
    while last == 0 {
        let answer = watch.message().await?.ok_or("the stream goes on")?;
        for event in answer.events() {
            let kv = event.kv().ok_or("a key")?;
            last = kv.mod_revision();
            println!("watched {}", kv.value_str()?);
        }
    }
    println!("RESTART");
    BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
    // This library leaves it to its user to go on after the last revision.
    println!("cut off {}", !matches!(watch.message().await, Ok(Some(_))));
    poll::until("the server is back", async || client.put("w/1", "after", None).await.is_ok()).await?;
    let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(last + 1);
    let mut watch = client.watch("w/", Some(options)).await?;
    loop {
        let answer = watch.message().await?.ok_or("the stream goes on")?;
        if let Some(event) = answer.events().first() {
            let was = event.prev_kv().ok_or("it was there")?.value_str()?;
            println!("watched {} was {was}", event.kv().ok_or("a key")?.value_str()?);
            break;
        }
    }
    println!("kept {}", client.get("a", None).await?.kvs()[0].value_str()?);
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let mut client = connect(None).await?;
    for part in std::env::args().skip(2) {
        let done = tokio::time::timeout(Duration::from_secs(90), async {
            match part.as_str() {
                "basics" => basics(&mut client).await,
                "transactions" => transactions(&mut client).await,
                "sizes" => sizes(&mut client).await,
                "leases" => leases(&mut client).await,
                "locks" => locks(&mut client).await,
                "auth" => auth(&mut client).await,
                "restarts" => restarts(&mut client).await,
                other => Err(format!("no part {other}").into()),
            }
        });
        done.await??;
    }
    println!("done");
    Ok(())
}
