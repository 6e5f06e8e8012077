//! Password hashes: Argon2id off the async threads, a bounded number at once.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;
use tokio::sync::Semaphore;

/// OWASP: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// What a login for an unknown user is verified against, so that it takes as long as any other: the same parameters, and
/// bytes that no password was hashed to.
const NOBODYS_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlz$bm9ib2R5J3MgcGFzc3dvcmQgaGFzaGVzIHRvIHRoaXM";
/// How many may wait for a turn beyond those being computed, for each turn there is.
const WAITING_PER_TURN: usize = 64;

#[derive(Debug, Error)]
pub enum PasswordError {
    /// As many wait as may; come back in a moment.
    #[error("too many logins at once")]
    Saturated,
    #[error("password hashing failed: {0}")]
    Failed(String),
}

/// Hashes and verifies passwords.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Passwords {
    pub fn new(at_once: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once)),
            places: Arc::new(Semaphore::new(at_once * (1 + WAITING_PER_TURN))),
        }
    }

    /// A PHC string.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        self.run(move || hash(&password)).await
    }

    /// Is it the password? For `None` (no such user) it takes just as long and is false.
    pub async fn verify(
        &self,
        password: String,
        expected: Option<String>,
    ) -> Result<bool, PasswordError> {
        self.run(move || {
            let right = verify(&password, expected.as_deref().unwrap_or(NOBODYS_HASH))?;
            Ok(right && expected.is_some())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| PasswordError::Saturated)?;
        let turn = self
            .turns
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| PasswordError::Saturated)?;
        tokio::task::spawn_blocking(move || {
            // Held by the work, not by the request: one that is given up still takes its core until it is done.
            let (_place, _turn) = (place, turn);
            work()
        })
        .await
        .map_err(|error| PasswordError::Failed(error.to_string()))?
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .map_err(|error| PasswordError::Failed(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Result<String, PasswordError> {
    argon2()?
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| PasswordError::Failed(error.to_string()))
}

fn verify(password: &str, expected: &str) -> Result<bool, PasswordError> {
    use argon2::password_hash::Error;

    let parsed =
        PasswordHash::new(expected).map_err(|error| PasswordError::Failed(error.to_string()))?;
    match argon2()?.verify_password(password.as_bytes(), &parsed) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_verified_and_an_unknown_user_never_is() {
        let passwords = Passwords::new(1);
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let verify =
            |password: &str, hash: Option<String>| passwords.verify(password.to_owned(), hash);
        assert!(verify("correct horse", Some(hash.clone())).await.unwrap());
        assert!(!verify("wrong horse", Some(hash)).await.unwrap());
        assert!(!verify("correct horse", None).await.unwrap());
    }

    #[tokio::test]
    async fn beyond_its_places_it_says_so_at_once() {
        let passwords = Passwords::new(1);
        let held = passwords.turns.clone().acquire_owned().await.unwrap();
        let waiting: Vec<_> = (0..=WAITING_PER_TURN)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.hash("x".into()).await })
            })
            .collect();
        while passwords.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = passwords.hash("x".into()).await;
        assert!(matches!(refused, Err(PasswordError::Saturated)));
        drop(held);
        for hash in waiting {
            assert!(hash.await.unwrap().is_ok());
        }
    }
}
