//! Who somebody is: access tokens, refresh tokens, one-time tickets and resume tokens.

mod access;
mod file_link;
mod gone;
mod kept;
pub mod keys;
mod password;
mod profiles;
mod refresh;
mod resume;
pub mod ticket;

use std::sync::Arc;

use atelier_shared::domain::ids::{ClientId, FamilyId, FileId, UserId};
use atelier_shared::domain::user::{User, UserKind};
use atelier_shared::ports::{Family, PortError, Vault};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::config::{ConfigError, GatewayConfig};
use keys::KeyRing;

pub use access::AccessToken;
pub use file_link::{LIFETIME as FILE_LINK_LIFETIME, LinkError};
pub use password::{PasswordError, Passwords};
pub use profiles::Profiles;
pub use refresh::{LoginTokens, Refreshed};

/// Whoever holds `ATELIER_ADMIN_TOKEN`. No row: what is made with it belongs to nobody.
pub const ADMINISTRATOR: UserId = UserId(Uuid::nil());

/// One person behind a request or a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub user_id: UserId,
    pub kind: UserKind,
    /// Display name; `None` for the anonymous.
    pub name: Option<String>,
    pub is_admin: bool,
    /// The login it came from; `None` for the anonymous and the administrator's token.
    pub family: Option<FamilyId>,
    /// When the token runs out; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Principal {
    /// Somebody without a token: a new one, or the one that a resume token names.
    pub fn anonymous(user_id: UserId) -> Self {
        Self {
            user_id,
            kind: UserKind::Anonymous,
            name: None,
            is_admin: false,
            family: None,
            expires_at: None,
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.kind == UserKind::Anonymous
    }

    /// The id for rows that refer to people: the administrator's token has none.
    pub fn row(&self) -> Option<UserId> {
        (self.user_id != ADMINISTRATOR && !self.is_anonymous()).then_some(self.user_id)
    }

    fn administrator() -> Self {
        Self {
            user_id: ADMINISTRATOR,
            kind: UserKind::Account,
            name: Some("Administrator".to_owned()),
            is_admin: true,
            family: None,
            expires_at: None,
        }
    }
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("The token has expired")]
    Expired,
    #[error("The token is not valid")]
    Invalid,
    #[error("The login was ended")]
    Revoked,
}

/// Why a token could not be checked or is not accepted.
#[derive(Debug, Error)]
pub enum AuthenticationError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Port(#[from] PortError),
}

/// What a resume token proves: whose connection `client_id` was. It replaces a token only for the anonymous; of an
/// account or guest it says no more than that this client id is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeClaim {
    pub user_id: UserId,
    pub client_id: ClientId,
    pub anonymous: bool,
}

/// Issues and verifies everything that says who somebody is. Cheap to clone; every pod with the same keys agrees.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    keys: KeyRing,
    vault: Arc<dyn Vault>,
    admin_token: Option<String>,
    access_lifetime: chrono::Duration,
    login_lifetime: chrono::Duration,
    /// What links begin with; empty: they are paths.
    public_url: String,
}

impl Identity {
    /// `config` as [`GatewayConfig::prepare`] left it.
    pub fn open(config: &GatewayConfig, vault: Arc<dyn Vault>) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(Inner {
            keys: KeyRing::open(config)?,
            vault,
            admin_token: config.admin_token.clone(),
            access_lifetime: chrono::Duration::seconds(config.access_token_lifetime_s.into()),
            login_lifetime: chrono::Duration::seconds(config.refresh_token_lifetime_s.into()),
            public_url: config.public_url.clone().unwrap_or_default(),
        })))
    }

    /// Checks an access token's signature, algorithm, issuer, audience and expiry; no I/O. Does not ask whether the
    /// login was ended: [`Identity::authenticate`] does.
    pub fn verify(&self, token: &str) -> Result<Principal, TokenError> {
        if self.is_admin_token(token) {
            return Ok(Principal::administrator());
        }
        access::verify(&self.0.keys, token)
    }

    /// [`Identity::verify`], and the login has not been ended.
    pub async fn authenticate(&self, token: &str) -> Result<Principal, AuthenticationError> {
        let principal = self.verify(token)?;
        self.still_stands(&principal).await?;
        Ok(principal)
    }

    /// The rest of [`Identity::authenticate`] for whom [`Identity::verify`] has told.
    pub async fn still_stands(&self, principal: &Principal) -> Result<(), AuthenticationError> {
        match principal.family {
            Some(family) if self.is_revoked(family).await? => Err(TokenError::Revoked.into()),
            _ => Ok(()),
        }
    }

    pub async fn is_revoked(&self, family: FamilyId) -> Result<bool, PortError> {
        self.0.vault.is_revoked(family, Utc::now()).await
    }

    /// A signed access token for this person, from this login.
    pub fn issue(&self, user: &User, family: &Family) -> Result<AccessToken, IssueError> {
        let now = Utc::now();
        let expires_at = (now + self.0.access_lifetime).min(family.expires_at);
        access::issue(&self.0.keys, user, family.id, now, expires_at)
    }

    /// The public keys, as RFC 7517 writes them; none where tokens are signed with a shared secret.
    pub fn jwks(&self) -> serde_json::Value {
        self.0.keys.jwks()
    }

    /// Proof for a later connection that `client_id` was this person's. For the anonymous it is their identity.
    pub fn resume_token(&self, principal: &Principal, client_id: &ClientId) -> String {
        resume::seal(
            &self.0.keys,
            &ResumeClaim {
                user_id: principal.user_id,
                client_id: client_id.clone(),
                anonymous: principal.is_anonymous(),
            },
            Utc::now(),
        )
    }

    /// Where a file can be read for [`FILE_LINK_LIFETIME`] from now, by whoever has the link.
    pub fn file_url(&self, file: FileId) -> String {
        let (expires, signature) = file_link::seal(&self.0.keys, file, Utc::now());
        let base = &self.0.public_url;
        format!("{base}/api/v1/files/{file}?exp={expires}&sig={signature}")
    }

    pub fn check_file_link(
        &self,
        file: FileId,
        expires: i64,
        signature: &str,
    ) -> Result<(), LinkError> {
        file_link::check(&self.0.keys, file, expires, signature, Utc::now())
    }

    /// An answer with tokens in it, so that it may be stored; `secret` is what the client must know to have it again.
    pub fn seal_answer(&self, secret: &[u8], answer: &str) -> Option<String> {
        kept::seal(&self.0.keys, secret, answer)
    }

    /// What [`Identity::seal_answer`] was given.
    pub fn open_answer(&self, secret: &[u8], sealed: &str) -> Option<String> {
        kept::open(&self.0.keys, secret, sealed)
    }

    /// `None`: forged, malformed or older than [`resume::LIFETIME`].
    pub fn verify_resume_token(&self, token: &str) -> Option<ResumeClaim> {
        resume::open(&self.0.keys, token, Utc::now())
    }

    fn is_admin_token(&self, token: &str) -> bool {
        use sha2::{Digest, Sha256};
        // Hashing first makes the comparison's time independent of the token's bytes.
        self.0
            .admin_token
            .as_ref()
            .is_some_and(|admin| Sha256::digest(admin) == Sha256::digest(token))
    }
}

/// Signing failed: the key and the algorithm do not fit, which the start should have caught.
#[derive(Debug, Error)]
#[error("cannot sign an access token: {0}")]
pub struct IssueError(#[from] jsonwebtoken::errors::Error);

#[cfg(test)]
mod tests;
