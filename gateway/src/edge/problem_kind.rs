//! The kinds of problem: each with its status, its stable name and its title, in one exhaustive match.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};

/// What went wrong, as a client can act on it. The name is stable: it is the last part of the problem's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The body is not JSON, or a part of the URL can't be read.
    Malformed,
    /// A field breaks a rule.
    Invalid,
    /// No token where one is needed.
    Unauthenticated,
    TokenExpired,
    TokenInvalid,
    /// The login was ended.
    TokenRevoked,
    /// Wrong user name or password; never says which.
    WrongCredentials,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    /// Somebody else has it, or it changed.
    Conflict,
    /// A request with the same Idempotency-Key is under way.
    IdempotencyInFlight,
    /// The Idempotency-Key was used for another request.
    IdempotencyMismatch,
    /// It was there, and is over.
    Gone,
    TooLarge,
    /// Bytes that the file does not have.
    NoSuchRange,
    UnsupportedMediaType,
    /// This address is a WebSocket.
    UpgradeRequired,
    RateLimited,
    /// The address holds as many rooms as it may.
    RoomLimit,
    /// More connections than this gateway takes.
    Busy,
    /// A store is away.
    Unavailable,
    /// This gateway is stopping; another will answer.
    Draining,
    /// It took longer than REQUEST_TIMEOUT; it may still have been carried out.
    Timeout,
    Internal,
}

impl Kind {
    /// Status, slug and title.
    pub(super) fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed", "Malformed request"),
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid field"),
            Self::Unauthenticated => (
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "A token is needed",
            ),
            Self::TokenExpired => (
                StatusCode::UNAUTHORIZED,
                "token-expired",
                "The token has expired",
            ),
            Self::TokenInvalid => (
                StatusCode::UNAUTHORIZED,
                "token-invalid",
                "The token is not valid",
            ),
            Self::TokenRevoked => (
                StatusCode::UNAUTHORIZED,
                "token-revoked",
                "The login was ended",
            ),
            Self::WrongCredentials => (
                StatusCode::UNAUTHORIZED,
                "wrong-credentials",
                "Wrong user name or password",
            ),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::IdempotencyInFlight => (
                StatusCode::CONFLICT,
                "idempotency-in-flight",
                "The same request is under way",
            ),
            Self::IdempotencyMismatch => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-mismatch",
                "The key was used for another request",
            ),
            Self::Gone => (StatusCode::GONE, "gone", "Over"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            Self::NoSuchRange => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                "no-such-range",
                "There are no such bytes",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "Unsupported media type",
            ),
            Self::UpgradeRequired => (
                StatusCode::UPGRADE_REQUIRED,
                "upgrade-required",
                "A WebSocket upgrade is needed",
            ),
            Self::RateLimited => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate-limited",
                "Too many requests",
            ),
            Self::RoomLimit => (
                StatusCode::TOO_MANY_REQUESTS,
                "room-limit",
                "Too many rooms from this address",
            ),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy"),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "A store is away",
            ),
            Self::Draining => (
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "This gateway is stopping",
            ),
            Self::Timeout => (
                StatusCode::SERVICE_UNAVAILABLE,
                "timeout",
                "The request took too long",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
            ),
        }
    }

    pub fn status(self) -> StatusCode {
        self.parts().0
    }

    /// `invalid`, `room-limit`, …
    pub fn slug(self) -> &'static str {
        self.parts().1
    }

    /// When a client that is told nothing better should come again.
    pub(super) fn default_retry(self) -> Option<Duration> {
        match self {
            Self::Busy
            | Self::Draining
            | Self::Unavailable
            | Self::Timeout
            | Self::IdempotencyInFlight => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// `WWW-Authenticate`; RFC 6750, section 3: a request that carried no token gets no error code.
    pub(super) fn challenge(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::TokenExpired => {
                r#"Bearer realm="atelier", error="invalid_token", error_description="expired""#
            }
            Self::TokenInvalid => r#"Bearer realm="atelier", error="invalid_token""#,
            Self::TokenRevoked => {
                r#"Bearer realm="atelier", error="invalid_token", error_description="revoked""#
            }
            _ => r#"Bearer realm="atelier""#,
        })
    }
}
