//! etcd's Auth service.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kelson_engine::Error as EngineError;
use kelson_engine::auth::{Asker, Auth as State, AuthCommand, Permission, ROOT, Refusal};
use kelson_engine::command::{Command, KeyRange, Outcome};
use kelson_raft::Error;
use kelson_wire::pb::authpb;
use kelson_wire::pb::etcdserverpb::auth_server::Auth;
use kelson_wire::pb::etcdserverpb::*;
use rand::Rng;
use tonic::{Request, Response, Status};

use super::{Caller, TokenKind};
use crate::context::Context;
use crate::kv::mismatch;
use crate::{refusal, validate};

/// Letters of a simple token, and how many it has.
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const TOKEN_LETTERS: usize = 16;

/// How often a password is checked anew because users or roles have changed meanwhile.
const ATTEMPTS: usize = 8;

/// Of who has no password; etcd has no code of its own for it.
const NO_PASSWORD: &str = "auth: authentication failed, password was given for no password user";

#[derive(Clone)]
pub(crate) struct AuthService {
    context: Arc<Context>,
}

impl AuthService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Makes a change in the caller's name and returns the answer's header.
    async fn change(&self, caller: &Caller, change: AuthCommand) -> Result<Option<ResponseHeader>, Status> {
        match self.context.ask(caller, Command::Auth(change)).await? {
            Outcome::Auth { revision, .. } => Ok(self.context.header(revision)),
            other => Err(mismatch(&other)),
        }
    }

    /// The state that holds everything that was acknowledged before, and who asks.
    async fn state(&self, caller: &Caller) -> Result<(Arc<State>, Asker), Status> {
        let asker = self.context.identify(caller).await?;
        self.context.node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
        Ok((self.context.node.reader().auth(), asker))
    }

    fn sized(&self, request: &impl prost::Message) -> Result<(), Status> {
        validate::size(request, self.context.options.max_request_bytes)
    }

    async fn do_authenticate(&self, request: AuthenticateRequest) -> Result<AuthenticateResponse, Status> {
        let context = &self.context;
        self.sized(&request)?;
        context.node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
        let passwords = &context.guard.passwords;
        for _ in 0..ATTEMPTS {
            let auth = context.node.reader().auth();
            if !auth.enabled() {
                return Err(refusal::of_auth(Refusal::NotEnabled));
            }
            let (password, revision) = (request.password.clone(), auth.revision());
            let right = match auth.user(&request.name) {
                None => passwords.verify_nobody(password).await.map(|()| false)?,
                Some(user) if user.no_password => return Err(Status::unknown(NO_PASSWORD)),
                Some(user) => passwords.verify(password, user.hash.clone()).await?,
            };
            if !right {
                return Err(refusal::of_auth(Refusal::AuthFailed));
            }
            // The password may have changed while it was checked.
            match self.token(&request.name, revision).await {
                Err(Error::Engine(EngineError::Auth(Refusal::OldRevision))) => {}
                Err(error) => return Err(refusal::of_raft(&error)),
                Ok(token) => {
                    let (revision, token) = token?;
                    return Ok(AuthenticateResponse { header: context.header(revision), token });
                }
            }
        }
        Err(refusal::of_auth(Refusal::OldRevision))
    }

    /// A token for a user whose password was found right at a revision, with the store's revision.
    async fn token(&self, user: &str, revision: u64) -> Result<Result<(i64, String), Status>, Error> {
        let context = &self.context;
        let old = || Error::Engine(EngineError::Auth(Refusal::OldRevision));
        let store = context.node.reader().revision();
        match &context.guard.token {
            TokenKind::Simple => {
                context.sweep_tokens();
                let change = AuthCommand::Authenticate { user: user.to_owned(), prefix: prefix(), revision };
                match context.node.propose(Command::Auth(change)).await? {
                    Outcome::Auth { revision, token: Some(token) } => Ok(Ok((revision, token.to_string()))),
                    other => Ok(Err(mismatch(&other))),
                }
            }
            TokenKind::Jwt(jwt) => {
                context.node.read_barrier().await?;
                if context.node.reader().auth().revision() != revision {
                    return Err(old());
                }
                let signed = jwt.sign(user, revision, std::time::SystemTime::now());
                Ok(signed.map(|token| (store, token)).map_err(Status::unknown))
            }
            TokenKind::None => Ok(Ok((store, String::new()))),
        }
    }

    async fn do_user_add(&self, caller: Caller, request: AuthUserAddRequest) -> Result<AuthUserAddResponse, Status> {
        self.sized(&request)?;
        let no_password = request.options.is_some_and(|options| options.no_password);
        let hash = if no_password {
            Default::default()
        } else {
            // Hashing is slow: not for everybody.
            self.context.admin(&caller).await?;
            self.context.guard.passwords.hash(request.password).await?
        };
        let change = AuthCommand::UserAdd { name: request.name, hash, no_password };
        Ok(AuthUserAddResponse { header: self.change(&caller, change).await? })
    }

    async fn do_change_password(
        &self,
        caller: Caller,
        request: AuthUserChangePasswordRequest,
    ) -> Result<AuthUserChangePasswordResponse, Status> {
        self.sized(&request)?;
        self.context.admin(&caller).await?;
        let name = request.name;
        let hash = if request.password.is_empty() {
            match STANDARD.decode(&request.hashed_password) {
                Ok(hash) => hash.into(),
                Err(_) => {
                    let (auth, _) = self.state(&caller).await?;
                    let user = auth.user(&name).ok_or_else(|| refusal::of_auth(Refusal::UserNotFound))?;
                    if !user.no_password {
                        return Err(Status::unknown(NO_PASSWORD));
                    }
                    Default::default()
                }
            }
        } else {
            self.context.guard.passwords.hash(request.password).await?
        };
        let change = AuthCommand::UserSetPassword { name, hash };
        Ok(AuthUserChangePasswordResponse { header: self.change(&caller, change).await? })
    }

    async fn do_user_get(&self, caller: Caller, request: AuthUserGetRequest) -> Result<AuthUserGetResponse, Status> {
        let (auth, asker) = self.state(&caller).await?;
        // As in etcd nobody's name is the empty one, so that it may ask for what there is not.
        let own = *request.name == *if let Asker::User { name, .. } = &asker { name } else { "" };
        if !own {
            auth.check_admin(&asker).map_err(refusal::of_auth)?;
        }
        let user = auth.user(&request.name).ok_or_else(|| refusal::of_auth(Refusal::UserNotFound))?;
        let roles = user.roles.iter().map(ToString::to_string).collect();
        Ok(AuthUserGetResponse { header: self.context.current_header(), roles })
    }

    async fn do_user_list(&self, caller: Caller) -> Result<AuthUserListResponse, Status> {
        let (auth, asker) = self.state(&caller).await?;
        auth.check_admin(&asker).map_err(refusal::of_auth)?;
        let users = auth.users().map(|(name, _)| name.to_string()).collect();
        Ok(AuthUserListResponse { header: self.context.current_header(), users })
    }

    async fn do_role_get(&self, caller: Caller, request: AuthRoleGetRequest) -> Result<AuthRoleGetResponse, Status> {
        let (auth, asker) = self.state(&caller).await?;
        let holds =
            |name: &str| auth.user(name).is_some_and(|user| user.roles.iter().any(|role| **role == *request.role));
        let own = matches!(&asker, Asker::User { name, .. } if holds(name));
        if !own {
            auth.check_admin(&asker).map_err(refusal::of_auth)?;
        }
        let role = auth.role(&request.role).ok_or_else(|| refusal::of_auth(Refusal::RoleNotFound))?;
        let perm = if request.role == ROOT {
            let everything = authpb::permission::Type::Readwrite.into();
            let all = authpb::Permission { perm_type: everything, range_end: vec![0].into(), ..Default::default() };
            vec![all]
        } else {
            let permission = |permission: &Permission| authpb::Permission {
                perm_type: permission.kind,
                key: permission.range.start.clone(),
                range_end: permission.range.end.clone(),
            };
            role.permissions.iter().map(permission).collect()
        };
        Ok(AuthRoleGetResponse { header: self.context.current_header(), perm })
    }

    async fn do_role_list(&self, caller: Caller) -> Result<AuthRoleListResponse, Status> {
        let (auth, asker) = self.state(&caller).await?;
        auth.check_admin(&asker).map_err(refusal::of_auth)?;
        let roles = auth.roles().map(|(name, _)| name.to_string()).collect();
        Ok(AuthRoleListResponse { header: self.context.current_header(), roles })
    }

    async fn do_grant_permission(
        &self,
        caller: Caller,
        request: AuthRoleGrantPermissionRequest,
    ) -> Result<AuthRoleGrantPermissionResponse, Status> {
        self.sized(&request)?;
        let Some(permission) = request.perm else {
            self.context.admin(&caller).await?;
            return Err(refusal::of_auth(Refusal::PermissionNotGiven));
        };
        let range = KeyRange { start: permission.key, end: permission.range_end };
        let permission = Permission { kind: permission.perm_type, range };
        let header = self.change(&caller, AuthCommand::RoleGrant { role: request.name, permission }).await?;
        Ok(AuthRoleGrantPermissionResponse { header })
    }

    async fn do_status(&self, caller: Caller) -> Result<AuthStatusResponse, Status> {
        let (auth, _) = self.state(&caller).await?;
        let header = self.context.current_header();
        Ok(AuthStatusResponse { header, enabled: auth.enabled(), auth_revision: auth.revision() })
    }
}

/// The random part of a token; the generator is one for secrets.
fn prefix() -> String {
    let mut random = rand::rng();
    (0..TOKEN_LETTERS).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.do_authenticate(request.into_inner()).await.map(Response::new)
    }

    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Result<Response<AuthEnableResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::Enable;
            Ok(AuthEnableResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::Disable;
            Ok(AuthDisableResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::UserDelete { name: request.name };
            Ok(AuthUserDeleteResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::UserGrantRole { user: request.user, role: request.role };
            Ok(AuthUserGrantRoleResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::UserRevokeRole { user: request.name, role: request.role };
            Ok(AuthUserRevokeRoleResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Result<Response<AuthRoleAddResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::RoleAdd { name: request.name };
            Ok(AuthRoleAddResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let change = AuthCommand::RoleDelete { name: request.role };
            Ok(AuthRoleDeleteResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let done = async {
            self.sized(&request)?;
            let range = KeyRange { start: request.key, end: request.range_end };
            let change = AuthCommand::RoleRevoke { role: request.role, range };
            Ok(AuthRoleRevokePermissionResponse { header: self.change(&caller, change).await? })
        };
        done.await.map(Response::new)
    }

    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_status(caller).await.map(Response::new)
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Result<Response<AuthUserAddResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_user_add(caller, request.into_inner()).await.map(Response::new)
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Result<Response<AuthUserGetResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_user_get(caller, request.into_inner()).await.map(Response::new)
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Result<Response<AuthUserListResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_user_list(caller).await.map(Response::new)
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_change_password(caller, request.into_inner()).await.map(Response::new)
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Result<Response<AuthRoleGetResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_role_get(caller, request.into_inner()).await.map(Response::new)
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Result<Response<AuthRoleListResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_role_list(caller).await.map(Response::new)
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let caller = Caller::of(&request);
        self.do_grant_permission(caller, request.into_inner()).await.map(Response::new)
    }
}
