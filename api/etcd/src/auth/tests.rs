//! Passwords at work do not hold up anybody else.

use std::sync::Arc;
use std::sync::mpsc;

use kelson_raft::{Config, Data, Node};
use kelson_wire::pb::etcdserverpb::auth_server::Auth;
use kelson_wire::pb::etcdserverpb::kv_server::Kv;
use kelson_wire::pb::etcdserverpb::{
    AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::{AuthOptions, AuthService};
use crate::ServerOptions;
use crate::context::Context;
use crate::kv::KvService;

fn login() -> Request<AuthenticateRequest> {
    Request::new(AuthenticateRequest { name: "root".into(), password: "pw".into() })
}

/// One who knows the password meanwhile waits; one who has a token does not, and who comes too late is told so.
#[tokio::test]
async fn puts_complete_while_every_password_worker_is_held() {
    const WAITING: usize = 3;
    let auth = AuthOptions { bcrypt_cost: 4, bcrypt_workers: 1, bcrypt_waiting: WAITING, ..AuthOptions::default() };
    let node = Node::open(Config::new("test", Data::Memory)).await.unwrap();
    let options = ServerOptions { auth, ..ServerOptions::default() };
    let context = Arc::new(Context::new(node.clone(), options, CancellationToken::new()));
    let (service, kv) = (AuthService::new(context.clone()), KvService::new(context.clone()));
    let root = AuthUserAddRequest { name: "root".into(), password: "pw".into(), ..Default::default() };
    service.user_add(Request::new(root)).await.unwrap();
    let grant = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    service.user_grant_role(Request::new(grant)).await.unwrap();
    service.auth_enable(Request::new(AuthEnableRequest {})).await.unwrap();
    let token = service.authenticate(login()).await.unwrap().into_inner().token;

    let (release, held) = mpsc::channel::<()>();
    let (started, begun) = tokio::sync::oneshot::channel();
    let holding = {
        let context = context.clone();
        tokio::spawn(async move {
            let hold = move || {
                let _ = started.send(());
                held.recv().is_err()
            };
            context.guard.passwords.run(hold).await
        })
    };
    begun.await.unwrap();
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.authenticate(login()).await.map(|_| ()) })
        })
        .collect();
    // They have their places as soon as there is none left.
    let refused = loop {
        tokio::task::yield_now().await;
        if context.guard.passwords.is_full() {
            break service.authenticate(login()).await.unwrap_err();
        }
    };
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: too many requests"));
    for number in 0..100 {
        let mut put = Request::new(PutRequest { key: format!("k{number}").into(), ..Default::default() });
        put.metadata_mut().insert("token", token.parse().unwrap());
        kv.put(put).await.unwrap();
    }
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "they wait for the worker");
    drop(release);
    assert!(holding.await.unwrap().unwrap());
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    node.shutdown().await.unwrap();
}
