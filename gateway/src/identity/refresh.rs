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

use super::Identity;
use super::keys::Use;

/// A token presented again within this of its replacement (two tabs, a lost answer) gets the same successor.
const GRACE: Duration = Duration::from_secs(10);
/// Longest token looked at; ours have 46 characters.
const TOKEN_MAX_BYTES: usize = 128;
const PREFIX: &str = "rt";

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
        let token = opaque(PREFIX).map_err(|error| PortError::fatal("begin login", error))?;
        let family = Family {
            id: FamilyId::generate(),
            user_id,
            expires_at: (Utc::now() + self.0.login_lifetime).trunc_subsecs(3),
        };
        self.0.vault.create_family(&family, digest(&token)).await?;
        Ok(LoginTokens {
            family,
            refresh_token: token,
        })
    }

    /// Exchanges a refresh token for its successor. The successor is a keyed hash of the token, so that a repeat
    /// within the grace gets the same one although only hashes are stored.
    pub async fn refresh(&self, token: &str) -> Result<Refreshed, PortError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Ok(Refreshed::Unknown);
        }
        let tag = self.0.keys.signing().tag(Use::Refresh, token.as_bytes());
        let successor = spell(PREFIX, &tag);
        let rotation = self
            .0
            .vault
            .rotate(digest(token), digest(&successor), Utc::now(), GRACE)
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

    /// Ends the login that this refresh token belongs to. False: there is none.
    pub async fn end_login(&self, token: &str) -> Result<bool, PortError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Ok(false);
        }
        let Some(family) = self.0.vault.family_of(digest(token), Utc::now()).await? else {
            return Ok(false);
        };
        // Access tokens of this login outlive it by at most their own life.
        let until = Utc::now() + self.0.access_lifetime + chrono::Duration::minutes(1);
        self.0.vault.revoke(family.id, until).await?;
        Ok(true)
    }
}

/// 256 random bits behind a prefix that says what leaked.
pub(super) fn opaque(prefix: &str) -> Result<String, rand::rand_core::OsError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(spell(prefix, &bytes))
}

fn spell(prefix: &str, bytes: &[u8; 32]) -> String {
    format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
