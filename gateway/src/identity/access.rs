//! Access tokens: JWTs as RFC 9068 describes them, verified by the rules of RFC 8725.

use atelier_shared::domain::ids::{FamilyId, UserId};
use atelier_shared::domain::user::{User, UserKind};
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys::KeyRing;
use super::{IssueError, Principal, TokenError};

const ISSUER: &str = "atelier";
const AUDIENCE: &str = "atelier";
/// RFC 9068: keeps other kinds of JWT signed with the same key from passing as access tokens.
const TYPE: &str = "at+jwt";
/// An expired token is not taken anywhere: its sockets are closed at that second, and must not come back in by it. Two pods
/// whose clocks differ end it that much sooner or later.
const LEEWAY_S: u64 = 0;
/// Longest token looked at; ours have about 400 bytes.
const TOKEN_MAX_BYTES: usize = 4_096;

/// A signed token and when it runs out.
#[derive(Debug, Clone)]
pub struct AccessToken {
    pub token: String,
    pub expires_at: DateTime<Utc>,
    /// From now until then.
    pub lifetime: TimeDelta,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: UserId,
    iat: i64,
    exp: i64,
    jti: Uuid,
    /// The login (refresh-token family) it came from.
    fam: FamilyId,
    kind: UserKind,
    name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    admin: bool,
}

pub(super) fn issue(
    keys: &KeyRing,
    user: &User,
    family: FamilyId,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<AccessToken, IssueError> {
    let key = keys.signing();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: user.id,
        iat: now.timestamp(),
        exp: expires_at.timestamp(),
        jti: Uuid::now_v7(),
        fam: family,
        kind: user.kind,
        name: user.name.clone(),
        admin: user.is_admin,
    };
    let mut header = Header::new(keys.algorithm());
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(key.id.clone());
    Ok(AccessToken {
        token: encode(&header, &claims, &key.encoding)?,
        expires_at,
        lifetime: expires_at - now,
    })
}

pub(super) fn verify(keys: &KeyRing, token: &str) -> Result<Principal, TokenError> {
    if token.len() > TOKEN_MAX_BYTES {
        return Err(TokenError::Invalid);
    }
    let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
    if header.typ.as_deref() != Some(TYPE) {
        return Err(TokenError::Invalid);
    }
    let key = header
        .kid
        .as_deref()
        .and_then(|kid| keys.find(kid))
        .ok_or(TokenError::Invalid)?;
    // The server's algorithm, never the header's.
    let mut rules = Validation::new(keys.algorithm());
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    rules.leeway = LEEWAY_S;
    let claims = decode::<Claims>(token, &key.decoding, &rules)
        .map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => TokenError::Expired,
            _ => TokenError::Invalid,
        })?
        .claims;
    let expires_at = Utc.timestamp_opt(claims.exp, 0).single();
    Ok(Principal {
        user_id: claims.sub,
        kind: claims.kind,
        name: Some(claims.name),
        is_admin: claims.admin,
        family: Some(claims.fam),
        expires_at: Some(expires_at.ok_or(TokenError::Invalid)?),
    })
}
