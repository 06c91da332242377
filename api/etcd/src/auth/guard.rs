//! Who a caller is, and what may be asked without a place in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use kelson_engine::auth::{Asker, Auth, Refusal};
use kelson_engine::command::{Command, KeyRange, Outcome};
use tonic::Status;

use super::password::Passwords;
use super::{AuthOptions, Caller, TokenKind};
use crate::context::Context;
use crate::refusal;

/// Pause between two looks for tokens that have run out, in milliseconds.
const SWEEP: u64 = 1_000;

/// What the auth of one server needs beside the store's own state.
pub(crate) struct Guard {
    pub(super) passwords: Passwords,
    pub(super) token: TokenKind,
    ttl_ms: u64,
    swept: AtomicU64,
}

impl Guard {
    pub(crate) fn new(options: &AuthOptions) -> Self {
        Self {
            passwords: Passwords::new(options),
            token: options.token.clone(),
            ttl_ms: options.ttl_ms(),
            swept: AtomicU64::new(0),
        }
    }
}

/// A read that was permitted; see [`Context::still`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permit {
    /// The auth revision that counts; `None` where nobody was asked.
    revision: Option<u64>,
}

/// One who watches. A name once known holds, though its token may have run out; what it may do is that of now.
pub(crate) struct Holder {
    caller: Caller,
    user: Option<Arc<str>>,
}

impl Holder {
    /// Who asks, at the present auth revision. Who was not asked for a name at the start is asked now.
    fn asker(&self, context: &Context, auth: &Auth) -> Asker {
        match &self.user {
            Some(name) => Asker::User { name: name.clone(), revision: auth.revision() },
            None => context.identify_now(&self.caller).unwrap_or(Asker::Nobody),
        }
    }

    /// Whether what was seen may be told: to be called when it is there.
    pub(crate) fn check_read(&self, context: &Context, range: &KeyRange) -> Result<(), Status> {
        if !context.node.reader().auth_enabled() {
            return Ok(());
        }
        let auth = context.node.reader().auth();
        auth.check_read(&self.asker(context, &auth), range).map_err(refusal::of_auth)
    }
}

impl Context {
    /// One who is to be checked time and again, because it holds on to what it was permitted.
    pub(crate) fn holder(&self, caller: Caller) -> Holder {
        let user = match self.identify_now(&caller) {
            Ok(Asker::User { name, .. }) => Some(name),
            _ => None,
        };
        Holder { caller, user }
    }

    /// Who the caller is, at the present auth revision. [`Asker::Nobody`] where auth is off, or nothing was said.
    ///
    /// # Errors
    /// A token that is none of ours, or none any more.
    pub(crate) fn identify_now(&self, caller: &Caller) -> Result<Asker, Status> {
        let reader = self.node.reader();
        if !reader.auth_enabled() {
            return Ok(Asker::Nobody);
        }
        let revision = reader.auth().revision();
        let Some(token) = &caller.token else {
            // As in etcd a certificate counts only where there is no token. One without a name names a user "", whom
            // nobody can be.
            let peer = caller.peer.as_ref().filter(|_| self.options.auth.client_cert_auth);
            let named = peer.map(|peer| peer.common_name().unwrap_or_default());
            return Ok(named.map_or(Asker::Nobody, |name| Asker::User { name: name.into(), revision }));
        };
        let found = match &self.guard.token {
            TokenKind::Simple => {
                let user = reader.token_user(token, self.node.now_ms(), self.guard.ttl_ms);
                user.map(|name| Asker::User { name, revision })
            }
            TokenKind::Jwt(jwt) => {
                let told = jwt.verify(token, SystemTime::now());
                told.map(|(name, revision)| Asker::User { name: name.into(), revision })
            }
            TokenKind::None => None,
        };
        found.ok_or_else(|| Status::unauthenticated(refusal::INVALID_TOKEN))
    }

    /// [`Context::identify_now`], which waits where the token was made by what this member has yet to apply.
    pub(crate) async fn identify(&self, caller: &Caller) -> Result<Asker, Status> {
        match self.identify_now(caller) {
            Err(_) if self.is_ahead(caller) => {
                self.node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
                self.identify_now(caller)
            }
            known => known,
        }
    }

    /// Whether a simple token names a place in the log that is not applied here.
    fn is_ahead(&self, caller: &Caller) -> bool {
        let place = caller.token.as_ref().and_then(|token| token.rsplit_once('.'));
        let index = place.and_then(|(_, index)| index.parse::<u64>().ok());
        let applied = self.node.reader().applied().map_or(0, |applied| applied.index);
        matches!(self.guard.token, TokenKind::Simple) && index.is_some_and(|index| index > applied)
    }

    /// The caller, who must be somebody where auth is on.
    pub(crate) async fn known(&self, caller: &Caller) -> Result<Asker, Status> {
        match self.identify(caller).await? {
            Asker::Nobody if self.node.reader().auth_enabled() => Err(refusal::of_auth(Refusal::UserEmpty)),
            asker => Ok(asker),
        }
    }

    /// Refuses callers who may not do everything.
    pub(crate) async fn admin(&self, caller: &Caller) -> Result<(), Status> {
        let asker = self.identify(caller).await?;
        self.node.reader().auth().check_admin(&asker).map_err(refusal::of_auth)
    }

    /// Checks a read that needs no place in the log. To be called behind the read barrier, and followed by
    /// [`Context::still`] when the answer is there.
    pub(crate) async fn permit(
        &self,
        caller: &Caller,
        check: impl FnOnce(&Auth, &Asker) -> Result<(), Refusal>,
    ) -> Result<Permit, Status> {
        if !self.node.reader().auth_enabled() {
            return Ok(Permit { revision: None });
        }
        let asker = self.identify(caller).await?;
        let auth = self.node.reader().auth();
        check(&auth, &asker).map_err(refusal::of_auth)?;
        let revision = if let Asker::User { revision, .. } = asker { Some(revision) } else { None };
        Ok(Permit { revision })
    }

    /// [`Context::permit`] for what needs a name, whatever is asked for.
    pub(crate) async fn permit_known(
        &self,
        caller: &Caller,
        check: impl FnOnce(&Auth, &Asker) -> Result<(), Refusal>,
    ) -> Result<Permit, Status> {
        self.permit(caller, |auth, asker| match asker {
            Asker::Nobody => Err(Refusal::UserEmpty),
            asker => check(auth, asker),
        })
        .await
    }

    /// [`Context::permit`] for the reading of a range.
    pub(crate) async fn permit_read(&self, caller: &Caller, range: &KeyRange) -> Result<Permit, Status> {
        self.permit(caller, |auth, asker| auth.check_read(asker, range)).await
    }

    /// Whether what was permitted is so still: what was read meanwhile may have been written after the permission was
    /// taken away.
    pub(crate) fn still(&self, permit: Permit) -> Result<(), Status> {
        match permit.revision {
            Some(revision) if revision != self.node.reader().auth().revision() => {
                Err(refusal::of_auth(Refusal::OldRevision))
            }
            _ => Ok(()),
        }
    }

    /// Proposes a command in the caller's name. Whether it may is decided when it is applied; who has not said a name
    /// where one is needed is refused at once.
    pub(crate) async fn ask(&self, caller: &Caller, command: Command) -> Result<Outcome, Status> {
        let command = if self.node.reader().auth_enabled() {
            let asker = self.known(caller).await?;
            command.by(&self.node.reader().auth(), &asker)
        } else {
            command
        };
        self.propose(command).await
    }

    /// Drops tokens that have run out, unless that was done a moment ago.
    pub(super) fn sweep_tokens(&self) {
        let now = self.node.now_ms();
        let last = self.guard.swept.load(Relaxed);
        let due = now.saturating_sub(last) >= SWEEP;
        if due && self.guard.swept.compare_exchange(last, now, Relaxed, Relaxed).is_ok() {
            self.node.reader().sweep_tokens(now, self.guard.ttl_ms);
        }
    }
}
