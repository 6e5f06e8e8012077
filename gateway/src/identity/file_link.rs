//! Links to files: whoever holds one may read the file until it expires. All pods with the same keys agree.

use atelier_shared::domain::ids::FileId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use thiserror::Error;

use super::keys::{KeyRing, Use};

/// How long a link holds.
pub const LIFETIME: Duration = Duration::hours(1);

/// Why a link is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkError {
    #[error("This link has expired; ask for the file again.")]
    Expired,
    #[error("This link is not valid.")]
    Invalid,
}

/// `exp` (seconds since 1970) and `sig` of a link made now.
pub(super) fn seal(keys: &KeyRing, file: FileId, now: DateTime<Utc>) -> (i64, String) {
    let expires = (now + LIFETIME).timestamp();
    let tag = keys.signing().tag(Use::File, &message(file, expires));
    (expires, URL_SAFE_NO_PAD.encode(tag))
}

pub(super) fn check(
    keys: &KeyRing,
    file: FileId,
    expires: i64,
    signature: &str,
    now: DateTime<Utc>,
) -> Result<(), LinkError> {
    let tag = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| LinkError::Invalid)?;
    let message = message(file, expires);
    if !keys
        .all()
        .iter()
        .any(|key| key.tag_matches(Use::File, &message, &tag))
    {
        return Err(LinkError::Invalid);
    }
    if expires <= now.timestamp() {
        return Err(LinkError::Expired);
    }
    Ok(())
}

fn message(file: FileId, expires: i64) -> Vec<u8> {
    format!("{file}:{expires}").into_bytes()
}
