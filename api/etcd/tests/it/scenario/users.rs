//! Users in a story: who asks, and the requests of the Auth service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kelson_wire::pb::authpb::{Permission, UserAddOptions, permission};
use kelson_wire::pb::etcdserverpb::auth_client::AuthClient;
use kelson_wire::pb::etcdserverpb::*;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::parse::Words;
use super::render;

/// A connection whose requests carry the token of the user whose turn it is.
pub type Wire = InterceptedService<Channel, Token>;

#[derive(Clone, Default)]
pub struct Token(Arc<Mutex<Option<String>>>);

impl Token {
    /// The token of every request from now on.
    pub fn set(&self, token: Option<String>) {
        *self.0.lock().unwrap() = token;
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &*self.0.lock().unwrap() {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        Ok(request)
    }
}

pub struct Users {
    auth: AuthClient<Wire>,
    token: Token,
    /// Tokens by the names of their users.
    known: HashMap<String, String>,
}

impl Users {
    pub fn new(channel: Channel, token: Token) -> Self {
        Self { auth: AuthClient::with_interceptor(channel, token.clone()), token, known: HashMap::new() }
    }

    pub async fn say(&mut self, words: &[&str]) -> Result<Vec<String>, Status> {
        match words[0] {
            "as" => self.turn(&words[1..]),
            "login" => self.login(words[1], &text(words.get(2))).await,
            "auth" => self.auth(words[1]).await,
            "user" => self.user(words[1], &words[2..]).await,
            _ => self.role(words[1], &words[2..]).await,
        }
    }

    fn turn(&self, who: &[&str]) -> Result<Vec<String>, Status> {
        self.token.set(match who {
            ["nobody"] => None,
            ["token", token] => Some((*token).to_owned()),
            [name] => Some(self.known.get(*name).unwrap_or_else(|| panic!("{name} has not logged in")).clone()),
            other => panic!("as {other:?}?"),
        });
        Ok(Vec::new())
    }

    async fn login(&mut self, name: &str, password: &str) -> Result<Vec<String>, Status> {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let answer = self.auth.authenticate(request).await?.into_inner();
        let (letters, index) = answer.token.rsplit_once('.').expect("letters, a dot and an index");
        assert!(letters.len() == 16 && letters.bytes().all(|letter| letter.is_ascii_alphabetic()), "{letters}");
        assert!(index.parse::<u64>().unwrap() > 0);
        self.known.insert(name.to_owned(), answer.token);
        Ok(vec![render::revision(&answer.header)])
    }

    async fn auth(&mut self, what: &str) -> Result<Vec<String>, Status> {
        let header = match what {
            "enable" => self.auth.auth_enable(AuthEnableRequest {}).await?.into_inner().header,
            "disable" => self.auth.auth_disable(AuthDisableRequest {}).await?.into_inner().header,
            "status" => {
                let answer = self.auth.auth_status(AuthStatusRequest {}).await?.into_inner();
                let (revision, enabled) = (render::revision(&answer.header), answer.enabled);
                return Ok(vec![format!("{revision} enabled={enabled} auth_revision={}", answer.auth_revision)]);
            }
            other => panic!("auth {other:?}?"),
        };
        Ok(vec![render::revision(&header)])
    }

    async fn user(&mut self, what: &str, words: &[&str]) -> Result<Vec<String>, Status> {
        let word = |at: usize| text(words.get(at));
        let (name, second) = (word(0), word(1));
        let auth = &mut self.auth;
        let header = match what {
            "add" => {
                let no_password = words.contains(&"no_password");
                let password = if second == "no_password" { String::new() } else { second };
                let options = no_password.then_some(UserAddOptions { no_password });
                let request = AuthUserAddRequest { name, password, options, hashed_password: String::new() };
                auth.user_add(request).await?.into_inner().header
            }
            "get" => {
                let answer = auth.user_get(AuthUserGetRequest { name }).await?.into_inner();
                return Ok(vec![format!("{} {:?}", render::revision(&answer.header), answer.roles)]);
            }
            "list" => {
                let answer = auth.user_list(AuthUserListRequest {}).await?.into_inner();
                return Ok(vec![format!("{} {:?}", render::revision(&answer.header), answer.users)]);
            }
            "delete" => auth.user_delete(AuthUserDeleteRequest { name }).await?.into_inner().header,
            "passwd" => {
                let hashed_password = word(2);
                let request = AuthUserChangePasswordRequest { name, password: second, hashed_password };
                auth.user_change_password(request).await?.into_inner().header
            }
            "grant" => {
                let request = AuthUserGrantRoleRequest { user: name, role: second };
                auth.user_grant_role(request).await?.into_inner().header
            }
            "revoke" => {
                let request = AuthUserRevokeRoleRequest { name, role: second };
                auth.user_revoke_role(request).await?.into_inner().header
            }
            other => panic!("user {other:?}?"),
        };
        Ok(vec![render::revision(&header)])
    }

    async fn role(&mut self, what: &str, words: &[&str]) -> Result<Vec<String>, Status> {
        let name = text(words.first());
        let range = |from: usize| {
            let words = Words::new(words[from..].to_vec());
            (words.plain(0), words.plain(1))
        };
        let auth = &mut self.auth;
        let header = match what {
            "add" => auth.role_add(AuthRoleAddRequest { name }).await?.into_inner().header,
            "get" => {
                let answer = auth.role_get(AuthRoleGetRequest { role: name }).await?.into_inner();
                let mut lines = vec![render::revision(&answer.header)];
                lines.extend(answer.perm.iter().map(permission_line));
                return Ok(lines);
            }
            "list" => {
                let answer = auth.role_list(AuthRoleListRequest {}).await?.into_inner();
                return Ok(vec![format!("{} {:?}", render::revision(&answer.header), answer.roles)]);
            }
            "delete" => auth.role_delete(AuthRoleDeleteRequest { role: name }).await?.into_inner().header,
            "grant" => {
                let perm = words.get(1).map(|kind| {
                    let perm_type = match *kind {
                        "read" => permission::Type::Read.into(),
                        "write" => permission::Type::Write.into(),
                        "readwrite" => permission::Type::Readwrite.into(),
                        number => number.parse().unwrap(),
                    };
                    let (key, range_end) = range(2);
                    Permission { perm_type, key, range_end }
                });
                let request = AuthRoleGrantPermissionRequest { name, perm };
                auth.role_grant_permission(request).await?.into_inner().header
            }
            "revoke" => {
                let (key, range_end) = range(1);
                let request = AuthRoleRevokePermissionRequest { role: name, key, range_end };
                auth.role_revoke_permission(request).await?.into_inner().header
            }
            other => panic!("role {other:?}?"),
        };
        Ok(vec![render::revision(&header)])
    }
}

/// A word that is a name or a password: `""` is empty, `*N` a word of N letters x.
fn text(word: Option<&&str>) -> String {
    let word = word.map_or(Bytes::new(), |word| Words::new(vec![*word]).plain(0));
    String::from_utf8(word.to_vec()).unwrap()
}

fn permission_line(permission: &Permission) -> String {
    let show = |bytes: &Bytes| format!("{:?}", String::from_utf8_lossy(bytes));
    let kind = match permission.perm_type {
        0 => "read".to_owned(),
        1 => "write".to_owned(),
        2 => "readwrite".to_owned(),
        other => other.to_string(),
    };
    format!("{kind} {} {}", show(&permission.key), show(&permission.range_end))
}
