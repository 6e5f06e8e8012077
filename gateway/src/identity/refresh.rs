//! Refresh tokens: opaque, hashed at rest, rotated in families (RFC 9700, section 4.14).

use std::time::Duration;

use atelier_shared::domain::ids::{FamilyId, UserId};
use atelier_shared::ports::{Family, PortError, Rotation};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{SubsecRound, Utc};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Identity;
use super::keys::Use;

/// A token presented again within this of its replacement (two tabs, a lost answer) gets the same successor, as long
/// as nobody has used that.
const GRACE: Duration = Duration::from_secs(30);
const PREFIX: &str = "rt_";
/// The family's id, in clear, and then the secret.
const TOKEN_BYTES: usize = 16 + 32;

/// A login and its first or next refresh token.
#[derive(Debug, Clone)]
pub struct LoginTokens {
    pub family: Family,
    pub refresh_token: String,
}

/// What came of presenting a refresh token.
#[derive(Debug, Clone)]
pub enum Refreshed {
    Next(LoginTokens),
    /// It had been replaced before: somebody has a copy. The whole login is ended now.
    Reused(Family),
    Unknown,
}

impl Identity {
    /// Starts a login.
    pub async fn begin_login(&self, user_id: UserId) -> Result<LoginTokens, PortError> {
        let secret = random().map_err(|error| PortError::fatal("begin login", error))?;
        let family = Family {
            id: FamilyId::generate(),
            user_id,
            expires_at: (Utc::now() + self.0.login_lifetime).trunc_subsecs(3),
        };
        let token = spell(family.id, &secret);
        self.0.vault.create_family(&family, digest(&token)).await?;
        Ok(LoginTokens {
            family,
            refresh_token: token,
        })
    }

    /// Whose login this refresh token belongs to, or once belonged to; it stays as it is.
    pub async fn owner_of(&self, token: &str) -> Result<Option<UserId>, PortError> {
        let Some(family) = family_in(token) else {
            return Ok(None);
        };
        let vault = &self.0.vault;
        let family = vault.family_of(family, digest(token), Utc::now()).await?;
        Ok(family.map(|family| family.user_id))
    }

    /// Exchanges a refresh token for its successor. The successor is a keyed hash of the token, so that a repeat
    /// within the grace gets the same one although only hashes are stored.
    pub async fn refresh(&self, token: &str) -> Result<Refreshed, PortError> {
        let Some(family) = family_in(token) else {
            return Ok(Refreshed::Unknown);
        };
        let tag = self.0.keys.steady().tag(Use::Refresh, token.as_bytes());
        let successor = spell(family, &tag);
        let rotation = self
            .0
            .vault
            .rotate(family, digest(token), digest(&successor), Utc::now(), GRACE)
            .await?;
        Ok(match rotation {
            Rotation::Rotated(family) | Rotation::Grace(family) => Refreshed::Next(LoginTokens {
                family,
                refresh_token: successor,
            }),
            Rotation::Reused(family) => Refreshed::Reused(family),
            Rotation::Unknown => Refreshed::Unknown,
        })
    }

    /// Ends every login of a person: access tokens are refused and sockets closed, on every gateway.
    pub async fn end_all_logins(&self, user: UserId) -> Result<(), PortError> {
        self.0.vault.revoke_user(user, self.outlived()).await
    }

    /// Access tokens of a login outlive it by at most their own life.
    fn outlived(&self) -> chrono::DateTime<Utc> {
        Utc::now() + self.0.access_lifetime + chrono::Duration::minutes(1)
    }

    /// Ends the login that this refresh token belongs to. False: there is none.
    pub async fn end_login(&self, token: &str) -> Result<bool, PortError> {
        let Some(family) = family_in(token) else {
            return Ok(false);
        };
        let known = self
            .0
            .vault
            .family_of(family, digest(token), Utc::now())
            .await?;
        if known.is_none() {
            return Ok(false);
        }
        self.0.vault.revoke(family, self.outlived()).await?;
        Ok(true)
    }
}

/// 256 random bits.
pub(super) fn random() -> Result<[u8; 32], rand::rand_core::OsError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes)
}

fn spell(family: FamilyId, secret: &[u8; 32]) -> String {
    let mut bytes = [0; TOKEN_BYTES];
    bytes[..16].copy_from_slice(family.0.as_bytes());
    bytes[16..].copy_from_slice(secret);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Which login a token says it belongs to. `None`: not one of ours.
fn family_in(token: &str) -> Option<FamilyId> {
    let text = token.strip_prefix(PREFIX)?;
    if text.len() != TOKEN_BYTES / 3 * 4 {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(FamilyId(Uuid::from_slice(bytes.get(..16)?).ok()?))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_family_and_nothing_else_passes() {
        let family = FamilyId::generate();
        let token = spell(family, &[7; 32]);
        assert_eq!(family_in(&token), Some(family));
        for bad in ["", "rt_", "rt_abc", &token[3..], &format!("{token}A")] {
            assert_eq!(family_in(bad), None, "{bad}");
        }
    }
}
