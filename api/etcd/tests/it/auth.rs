//! Auth where a story cannot go: clocks, certificates, signed tokens, and watches that outlive their permission.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kelson_etcd::{AuthOptions, ServerOptions, TokenKind, server_tls};
use kelson_raft::Clock;
use kelson_wire::pb::authpb::{Permission, permission};
use kelson_wire::pb::etcdserverpb::auth_client::AuthClient;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{Server, within};
use crate::scenario::users::{Token, Wire};

/// A client that can be several users, one after the other.
struct Client {
    token: Token,
    auth: AuthClient<Wire>,
    kv: KvClient<Wire>,
    watch: WatchClient<Wire>,
}

impl Client {
    fn new(channel: Channel) -> Self {
        let token = Token::default();
        Self {
            auth: AuthClient::with_interceptor(channel.clone(), token.clone()),
            kv: KvClient::with_interceptor(channel.clone(), token.clone()),
            watch: WatchClient::with_interceptor(channel, token.clone()),
            token,
        }
    }

    fn of(server: &Server) -> Self {
        Self::new(Endpoint::from_shared(server.url()).unwrap().connect_lazy())
    }

    /// Makes root, and alice who may read and write a to c and read d, and turns auth on.
    async fn found(&mut self) {
        for name in ["root", "alice"] {
            let password = "pw".to_owned();
            let request = AuthUserAddRequest { name: name.into(), password, ..Default::default() };
            self.auth.user_add(request).await.unwrap();
        }
        self.auth.role_add(AuthRoleAddRequest { name: "r".into() }).await.unwrap();
        for (user, role) in [("root", "root"), ("alice", "r")] {
            let request = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
            self.auth.user_grant_role(request).await.unwrap();
        }
        self.grant("a", "c", permission::Type::Readwrite).await;
        self.grant("d", "", permission::Type::Read).await;
        self.auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    }

    async fn grant(&mut self, key: &'static str, end: &'static str, kind: permission::Type) {
        let perm = Permission { perm_type: kind.into(), key: key.into(), range_end: end.into() };
        let request = AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) };
        self.auth.role_grant_permission(request).await.unwrap();
    }

    /// Is this user from now on.
    async fn login(&mut self, name: &str) -> String {
        self.token.set(None);
        let request = AuthenticateRequest { name: name.into(), password: "pw".into() };
        let token = self.auth.authenticate(request).await.unwrap().into_inner().token;
        self.token.set(Some(token.clone()));
        token
    }

    async fn put(&mut self, key: &'static str) -> Result<(), Status> {
        self.kv.put(PutRequest { key: key.into(), ..Default::default() }).await.map(drop)
    }
}

fn options(auth: AuthOptions) -> ServerOptions {
    ServerOptions { auth: AuthOptions { bcrypt_cost: 4, ..auth }, ..ServerOptions::default() }
}

fn refused(answer: Result<(), Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status.message().to_owned())
}

struct Watches {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watches {
    async fn open(client: &mut Client) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let answers = within("a stream", client.watch.watch(ReceiverStream::new(receiver))).await.unwrap();
        Self { requests, answers: answers.into_inner() }
    }

    async fn create(&mut self, key: &'static str, end: &'static str) {
        let create = WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        self.requests.send(request).await.unwrap();
        let answer = self.next().await;
        assert!(answer.created && !answer.canceled, "{answer:?}");
    }

    async fn next(&mut self) -> WatchResponse {
        within("an answer", self.answers.message()).await.unwrap().expect("the stream goes on")
    }

    /// The next answer ends a watch for this reason.
    async fn ended(&mut self, id: i64, reason: &str) {
        let answer = self.next().await;
        assert_eq!((answer.watch_id, answer.canceled, &*answer.cancel_reason), (id, true, reason), "{answer:?}");
    }

    /// The next answer tells of a put of this key.
    async fn told(&mut self, id: i64, key: &str) {
        let answer = self.next().await;
        let [event] = &answer.events[..] else { panic!("{answer:?}") };
        assert_eq!((answer.watch_id, &event.kv.as_ref().unwrap().key[..]), (id, key.as_bytes()));
    }
}

const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// What is written behind the loss of a permission is never told, and the watch ends without being asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_permission_ends_its_watches_alone() {
    let server = Server::start(options(AuthOptions::default())).await;
    let (mut alice, mut root) = (Client::of(&server), Client::of(&server));
    root.found().await;
    root.login("root").await;
    alice.login("alice").await;
    let mut watches = Watches::open(&mut alice).await;
    watches.create("a", "c").await;
    watches.create("d", "").await;
    root.put("d").await.unwrap();
    watches.told(1, "d").await;
    let revoke = AuthRoleRevokePermissionRequest { role: "r".into(), key: "d".into(), range_end: "".into() };
    root.auth.role_revoke_permission(revoke).await.unwrap();
    root.put("d").await.unwrap();
    watches.ended(1, DENIED).await;
    root.put("a").await.unwrap();
    watches.told(0, "a").await;
    // A new password ends tokens, not what a known user has begun; its end does.
    let change = AuthUserChangePasswordRequest { name: "alice".into(), password: "x".into(), ..Default::default() };
    root.auth.user_change_password(change).await.unwrap();
    assert_eq!(refused(alice.put("a").await).0, Code::Unauthenticated);
    root.put("b").await.unwrap();
    watches.told(0, "b").await;
    root.auth.user_delete(AuthUserDeleteRequest { name: "alice".into() }).await.unwrap();
    watches.ended(0, DENIED).await;
    drop((alice, root, watches));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turning_auth_on_ends_the_watches_of_nobody() {
    let server = Server::start(options(AuthOptions::default())).await;
    let (mut nobody, mut root) = (Client::of(&server), Client::of(&server));
    let mut watches = Watches::open(&mut nobody).await;
    watches.create("a", "").await;
    root.found().await;
    watches.ended(0, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty").await;
    drop((nobody, root, watches));
    server.stop().await;
}

#[derive(Default)]
struct HandClock(AtomicU64);

impl HandClock {
    fn turn_by(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lasts_as_long_as_it_is_used() {
    let clock = Arc::new(HandClock::default());
    let auth = AuthOptions { token_ttl: Duration::from_secs(10), ..AuthOptions::default() };
    let hand = clock.clone();
    let server = Server::start_with(options(auth), |config| config.clock = hand).await;
    let mut client = Client::of(&server);
    client.found().await;
    client.login("alice").await;
    for _ in 0..3 {
        client.put("a").await.unwrap();
        clock.turn_by(10);
    }
    client.put("a").await.unwrap();
    clock.turn_by(11);
    let invalid = (Code::Unauthenticated, "etcdserver: invalid auth token".to_owned());
    assert_eq!(refused(client.put("a").await), invalid);
    client.login("alice").await;
    client.put("a").await.unwrap();
    drop(client);
    server.stop().await;
}

/// A token from a log entry that no member has yet is not one, but is not waited for either.
#[tokio::test]
async fn a_token_of_the_future_is_invalid() {
    let server = Server::start(options(AuthOptions::default())).await;
    let mut client = Client::of(&server);
    client.found().await;
    client.token.set(Some("abc.99999999999".into()));
    assert_eq!(refused(within("an answer", client.put("a")).await).0, Code::Unauthenticated);
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_member_knows_users_and_no_tokens() {
    let server = Server::start(options(AuthOptions::default())).await;
    let mut client = Client::of(&server);
    client.found().await;
    client.login("alice").await;
    server.node.reader().forget_tokens();
    assert_eq!(refused(client.put("a").await).0, Code::Unauthenticated);
    client.login("alice").await;
    client.put("a").await.unwrap();
    drop(client);
    server.stop().await;
}

/// A token of this kind carries its revision: it is old after every change, and its client comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_grow_old_with_every_change() {
    let key = std::env::temp_dir().join(format!("kelson-jwt-{}", std::process::id()));
    std::fs::write(&key, "a secret").unwrap();
    let token = TokenKind::parse(&format!("jwt,sign-method=HS256,priv-key={},ttl=1h", key.display())).unwrap();
    std::fs::remove_file(&key).unwrap();
    let server = Server::start(options(AuthOptions { token, ..AuthOptions::default() })).await;
    let (mut client, mut root) = (Client::of(&server), Client::of(&server));
    client.found().await;
    let signed = client.login("alice").await;
    client.put("a").await.unwrap();
    assert_eq!(refused(client.put("d").await), (Code::PermissionDenied, "etcdserver: permission denied".into()));
    root.login("root").await;
    root.grant("d", "", permission::Type::Readwrite).await;
    let old = (Code::InvalidArgument, "etcdserver: revision of auth store is old".to_owned());
    assert_eq!(refused(client.put("d").await), old);
    let range = RangeRequest { key: "d".into(), ..Default::default() };
    assert_eq!(refused(client.kv.range(range.clone()).await.map(drop)), old);
    let mut stream = client.kv.range_stream(range).await;
    let answer = match &mut stream {
        Ok(chunks) => chunks.get_mut().message().await.map(drop),
        Err(status) => Err(status.clone()),
    };
    assert_eq!(refused(answer), old);
    client.login("alice").await;
    client.put("d").await.unwrap();
    let (head, _) = signed.rsplit_once('.').unwrap();
    for forged in [format!("{head}."), format!("{head}.AAAA"), "abc.1".into(), String::new()] {
        client.token.set(Some(forged));
        assert_eq!(refused(client.put("a").await).0, Code::Unauthenticated);
    }
    drop((client, root, stream));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_makes_a_user_where_that_is_wanted() {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let (chain, key) = issue("server");
    let tls = server_tls(chain.as_bytes(), key.as_bytes(), Some(ca.as_bytes())).unwrap();
    let empty = (Code::InvalidArgument, "etcdserver: user name is empty".to_owned());
    for client_cert_auth in [true, false] {
        let auth = AuthOptions { client_cert_auth, ..AuthOptions::default() };
        let server = Server::start(ServerOptions { tls: Some(tls.clone()), ..options(auth) }).await;
        let connect = |name: &str| {
            let (certificate, key) = issue(name);
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&ca))
                .identity(Identity::from_pem(certificate, key))
                .domain_name("localhost");
            let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
            Client::new(endpoint.tls_config(tls).unwrap().connect_lazy())
        };
        let (mut alice, mut eve) = (connect("alice"), connect("eve"));
        alice.found().await;
        if client_cert_auth {
            alice.put("a").await.unwrap();
            let denied = (Code::PermissionDenied, "etcdserver: permission denied".to_owned());
            assert_eq!(refused(alice.put("d").await), denied);
            assert_eq!(refused(eve.put("a").await), denied, "a user that is not known");
            let mut through = Request::new(PutRequest { key: "a".into(), ..Default::default() });
            through.metadata_mut().insert("grpcgateway-accept", "*/*".parse().unwrap());
            let answer = alice.kv.put(through).await.map(drop);
            assert_eq!(refused(answer), empty, "the certificate is the gateway's");
        } else {
            assert_eq!(refused(alice.put("a").await), empty);
        }
        // A token goes before the certificate.
        eve.login("alice").await;
        eve.put("a").await.unwrap();
        eve.token.set(Some("abc.1".into()));
        assert_eq!(refused(eve.put("a").await).0, Code::Unauthenticated);
        drop((alice, eve));
        server.stop().await;
    }
}
