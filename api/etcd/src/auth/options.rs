//! What the auth of a server may be told.

use std::time::Duration;

use super::TokenKind;

/// bcrypt's own bounds of its cost, and etcd's default.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
const COST: u32 = 10;

/// Settings of auth. They have no effect until auth is turned on.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// What tokens are (etcd's `auth-token`); from text by [`TokenKind::parse`].
    pub token: TokenKind,
    /// How long a simple token lasts when it is not used (etcd's `auth-token-ttl`). Zero means the default.
    pub token_ttl: Duration,
    /// Two to the power of this many rounds hash a password (etcd's `bcrypt-cost`). Beyond 4 to 31 it is 10, as in etcd.
    pub bcrypt_cost: u32,
    /// Passwords that are worked on at a time, each on a thread of its own.
    pub bcrypt_workers: usize,
    /// Requests that may wait for one of those threads; further ones are refused: too many requests.
    pub bcrypt_waiting: usize,
    /// A request without a token is its connection's: the common name of the client's certificate is the user's name
    /// (etcd's `client-cert-auth`). Needs a TLS configuration that asks for certificates.
    pub client_cert_auth: bool,
}

impl Default for AuthOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            token: TokenKind::Simple,
            token_ttl: TTL,
            bcrypt_cost: COST,
            // Never more than half of the machine: the other half is for those who are known already.
            bcrypt_workers: (cores / 2).max(1),
            bcrypt_waiting: 256,
            client_cert_auth: false,
        }
    }
}

/// etcd's default life of a token.
pub(super) const TTL: Duration = Duration::from_secs(300);

impl AuthOptions {
    pub(super) fn cost(&self) -> u32 {
        if COSTS.contains(&self.bcrypt_cost) {
            return self.bcrypt_cost;
        }
        tracing::warn!("a bcrypt cost of {} is beyond {COSTS:?}; using {COST}", self.bcrypt_cost);
        COST
    }

    pub(super) fn ttl_ms(&self) -> u64 {
        let ttl = if self.token_ttl.is_zero() { TTL } else { self.token_ttl };
        u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
    }
}
