//! Resume tokens: proof that a client id was one's own, and all the identity that an anonymous person has.

use atelier_shared::domain::ids::UserId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use super::ResumeClaim;
use super::keys::{KeyRing, Use};

/// Every `connected` brings a new one, so this is how long somebody may stay away.
pub const LIFETIME: Duration = Duration::days(7);
const VERSION: u8 = 1;
/// Version, anonymous flag, seconds since 1970, user id; then the client id, then the tag.
const HEAD: usize = 1 + 1 + 8 + 16;
const TAG: usize = 32;
/// Longest client id is 64 bytes.
const BYTES_MAX: usize = HEAD + 64 + TAG;

pub(super) fn seal(keys: &KeyRing, claim: &ResumeClaim, now: DateTime<Utc>) -> String {
    let mut bytes = Vec::with_capacity(BYTES_MAX);
    bytes.push(VERSION);
    bytes.push(u8::from(claim.anonymous));
    bytes.extend_from_slice(&now.timestamp().to_be_bytes());
    bytes.extend_from_slice(claim.user_id.0.as_bytes());
    bytes.extend_from_slice(claim.client_id.as_str().as_bytes());
    let tag = keys.signing().tag(Use::Resume, &bytes);
    bytes.extend_from_slice(&tag);
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn open(keys: &KeyRing, token: &str, now: DateTime<Utc>) -> Option<ResumeClaim> {
    if token.len() > BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (signed, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
    let genuine = keys
        .all()
        .iter()
        .any(|key| key.tag_matches(Use::Resume, signed, tag));
    if !genuine || signed.len() < HEAD || signed[0] != VERSION {
        return None;
    }
    let issued = i64::from_be_bytes(signed[2..10].try_into().ok()?);
    let issued = DateTime::from_timestamp(issued, 0)?;
    if now - issued > LIFETIME {
        return None;
    }
    Some(ResumeClaim {
        user_id: UserId(Uuid::from_slice(&signed[10..HEAD]).ok()?),
        client_id: std::str::from_utf8(&signed[HEAD..]).ok()?.parse().ok()?,
        anonymous: signed[1] == 1,
    })
}
