//! One-time tickets: a way into a WebSocket without a token in the URL.

use std::time::Duration;

use atelier_shared::ports::PortError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::refresh::random;
use super::{AuthenticationError, Identity, Principal, TokenError};

/// How long a ticket waits for its one use.
pub const LIFETIME: Duration = Duration::from_secs(30);

impl Identity {
    /// A ticket that stands for this person, once, for [`LIFETIME`].
    pub async fn issue_ticket(&self, principal: &Principal) -> Result<String, PortError> {
        const OPERATION: &str = "issue ticket";
        let secret = random().map_err(|error| PortError::fatal(OPERATION, error))?;
        let ticket = format!("wst_{}", URL_SAFE_NO_PAD.encode(secret));
        let claims =
            serde_json::to_string(principal).map_err(|error| PortError::fatal(OPERATION, error))?;
        let digest: [u8; 32] = Sha256::digest(&ticket).into();
        self.0.vault.put_ticket(digest, &claims, LIFETIME).await?;
        Ok(ticket)
    }

    /// Whose ticket it was. The second caller is refused, as is one whose login has ended meanwhile.
    pub async fn redeem_ticket(&self, ticket: &str) -> Result<Principal, AuthenticationError> {
        let digest: [u8; 32] = Sha256::digest(ticket).into();
        let claims = self.0.vault.take_ticket(digest).await?;
        let claims = claims.ok_or(TokenError::Invalid)?;
        let principal: Principal =
            serde_json::from_str(&claims).map_err(|_| TokenError::Invalid)?;
        if principal
            .expires_at
            .is_some_and(|end| end <= chrono::Utc::now())
        {
            return Err(TokenError::Expired.into());
        }
        if let Some(family) = principal.family
            && self.is_revoked(family).await?
        {
            return Err(TokenError::Revoked.into());
        }
        Ok(principal)
    }
}
