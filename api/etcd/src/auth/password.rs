//! Passwords are slow on purpose: they are worked on by a bounded number of threads of their own.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tonic::Status;

use super::AuthOptions;
use crate::refusal;

/// Longest password that bcrypt takes in whole, in bytes.
const LONGEST: usize = 72;

/// A password of nobody, which takes as long to be found wrong as anybody's.
const NOBODY: &str = "...............................";

/// Hashes and checks passwords.
pub(super) struct Passwords {
    cost: u32,
    workers: Arc<Semaphore>,
    /// One for each request that is worked on or waits for that.
    places: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new(options: &AuthOptions) -> Self {
        let workers = options.bcrypt_workers.max(1);
        let places = workers.saturating_add(options.bcrypt_waiting).min(Semaphore::MAX_PERMITS);
        Self {
            cost: options.cost(),
            workers: Arc::new(Semaphore::new(workers.min(places))),
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// The hash of a new password.
    pub(super) async fn hash(&self, password: String) -> Result<Bytes, Status> {
        if password.len() > LONGEST {
            // As etcd's library says it.
            return Err(Status::unknown("bcrypt: password length exceeds 72 bytes"));
        }
        let cost = self.cost;
        let hashed = self.run(move || bcrypt::hash_with_result(password, cost)).await?;
        // The version that etcd itself writes.
        let text = hashed.map(|parts| parts.format_for_version(bcrypt::Version::TwoA));
        text.map(Bytes::from).map_err(|error| Status::unknown(format!("bcrypt: {error}")))
    }

    /// Whether a password is the one that was hashed. What is no hash is nobody's password.
    pub(super) async fn verify(&self, password: String, hash: Bytes) -> Result<bool, Status> {
        self.run(move || {
            let hash = std::str::from_utf8(&hash).unwrap_or_default();
            bcrypt::verify(password, hash).unwrap_or(false)
        })
        .await
    }

    /// Takes as long as a check, so that the answer's time does not tell whether there is such a user.
    pub(super) async fn verify_nobody(&self, password: String) -> Result<(), Status> {
        let hash = format!("$2a${:02}${}{NOBODY}", self.cost, &"."[..].repeat(22));
        self.verify(password, hash.into()).await.map(|_| ())
    }

    /// Whether the next request would be refused.
    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Does slow work on a thread of its own, when its turn comes.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::unknown(refusal::TOO_MANY_REQUESTS))?;
        let stopped = || Status::unavailable(refusal::STOPPED);
        let worker = self.workers.clone().acquire_owned().await.map_err(|_| stopped())?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop((worker, place));
            result
        });
        done.await.map_err(|_| stopped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(&AuthOptions { bcrypt_cost: 4, ..AuthOptions::default() })
    }

    #[tokio::test]
    async fn what_was_hashed_is_recognized() {
        let passwords = passwords();
        for password in ["", "secret", "with\0zero", &"x".repeat(72)] {
            let hash = passwords.hash(password.into()).await.unwrap();
            assert!(hash.starts_with(b"$2a$04$"), "{hash:?}");
            assert!(passwords.verify(password.into(), hash.clone()).await.unwrap());
            assert!(!passwords.verify(format!("y{password}"), hash).await.unwrap());
        }
        assert!(!passwords.verify(String::new(), Bytes::new()).await.unwrap(), "what is no hash");
        let refused = passwords.hash("x".repeat(73)).await.unwrap_err();
        assert_eq!(refused.message(), "bcrypt: password length exceeds 72 bytes");
    }

    #[tokio::test]
    async fn hashes_of_an_etcd_are_understood() {
        // Of the password "pw", written by etcd 3.7.
        let hash = Bytes::from_static(ETCD_HASH.as_bytes());
        assert!(passwords().verify("pw".into(), hash.clone()).await.unwrap());
        assert!(!passwords().verify("pv".into(), hash).await.unwrap());
    }

    const ETCD_HASH: &str = "$2a$04$bezpwkj42eQV88Ppajksr.BlYLjLEGu8HELtr3qaJnnQSTEFUWCf6";

    #[test]
    fn nobodys_password_is_checked_like_anybodys() {
        let hash = format!("$2a$04${}{NOBODY}", ".".repeat(22));
        assert!(!bcrypt::verify("x", &hash).unwrap(), "a hash that parses");
    }
}
