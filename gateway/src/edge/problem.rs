//! Errors as RFC 9457 problems: every failure of the edge becomes one here, in one exhaustive match.

use std::time::Duration;

use atelier_shared::domain::Invalid;
use atelier_shared::ports::PortError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

pub use super::problem_kind::Kind;
use super::trace;
use crate::identity::{AuthenticationError, IssueError, PasswordError, TokenError};

/// A failure on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    /// For the person who reads it; never what a store said.
    pub detail: String,
    /// The offending field, dotted where nested.
    pub field: Option<String>,
    pub retry_after: Option<Duration>,
    /// The limit that was reached: so many in so long.
    policy: Option<(u32, Duration)>,
}

/// RFC 9457 as it travels.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, title = "Problem (RFC 9457)")]
pub struct ProblemBody {
    /// Stable identifier, `/problems/<name>`
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid")]
    kind: String,
    #[schema(example = "Invalid field")]
    title: &'static str,
    #[schema(example = 422)]
    status: u16,
    #[schema(example = "must not be empty")]
    detail: String,
    /// The offending field, where there is one
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// W3C trace id of the request, to find it in the logs
    trace_id: String,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            retry_after: kind.default_retry(),
            policy: None,
        }
    }

    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The field is one of something that is itself a part of the body; without a field the whole of it is invalid.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field = match self.field {
            Some(field) => Some(format!("{parent}.{field}")),
            None => (self.kind == Kind::Invalid).then(|| parent.to_owned()),
        };
        self
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Tells the limit in the `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers).
    #[must_use]
    pub fn policy(mut self, limit: u32, window: Duration) -> Self {
        self.policy = Some((limit, window));
        self
    }

    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, reason).at(field)
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, format!("There is no such {what}."))
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, detail)
    }

    pub fn unauthenticated() -> Self {
        Self::new(
            Kind::Unauthenticated,
            "Send an access token: Authorization: Bearer …",
        )
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, detail)
    }

    pub fn rate_limited(wait: Duration) -> Self {
        Self::new(Kind::RateLimited, "Too many tries; wait a while.").retry_after(wait)
    }

    pub fn internal() -> Self {
        Self::new(
            Kind::Internal,
            "Something went wrong here. The trace id names this request.",
        )
    }

    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// As it travels.
    pub fn body(&self) -> ProblemBody {
        let (status, slug, title) = self.kind.parts();
        ProblemBody {
            kind: format!("/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail: self.detail.clone(),
            field: self.field.clone(),
            trace_id: trace::current_id(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)),
            );
        }
        if let Some((limit, window)) = self.policy {
            let wait = self.retry_after.unwrap_or_default().as_secs().max(1);
            let policy = format!("\"default\";q={limit};w={}", window.as_secs());
            let state = format!("\"default\";r=0;t={wait}");
            for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
        }
        if self.kind == Kind::UpgradeRequired {
            // RFC 9110, 15.5.22 and RFC 6455, 4.4: to what, and in which version.
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(
                header::SEC_WEBSOCKET_VERSION,
                HeaderValue::from_static("13"),
            );
        }
        if self.kind.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, self.kind.challenge());
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(invalid.field, invalid.reason)
    }
}

impl From<PortError> for Problem {
    /// Logged here, once; what a store said is never shown.
    fn from(error: PortError) -> Self {
        if error.is_retryable() {
            tracing::warn!(operation = error.operation, error = %error.source, "a store is away");
            return Self::new(
                Kind::Unavailable,
                "A store is away. The request may have been carried out; try again.",
            );
        }
        tracing::error!(operation = error.operation, error = %error.source, "a store failed");
        Self::internal()
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let kind = match error {
            TokenError::Expired => Kind::TokenExpired,
            TokenError::Invalid => Kind::TokenInvalid,
            TokenError::Revoked => Kind::TokenRevoked,
        };
        Self::new(kind, format!("{error}."))
    }
}

impl From<AuthenticationError> for Problem {
    fn from(error: AuthenticationError) -> Self {
        match error {
            AuthenticationError::Token(error) => error.into(),
            AuthenticationError::Port(error) => error.into(),
        }
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Saturated => Self::new(
                Kind::Busy,
                "Too many logins at once; try again in a moment.",
            ),
            PasswordError::Failed(reason) => {
                tracing::error!(reason, "password hashing failed");
                Self::internal()
            }
        }
    }
}

impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        tracing::error!(%error, "signing failed");
        Self::internal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_503_and_one_that_failed_is_500() {
        let away = Problem::from(PortError::retry("read", "connection refused"));
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(away.retry_after.is_some());
        assert!(!away.detail.contains("refused"));
        let failed = Problem::from(PortError::fatal("read", "no such column"));
        assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn what_is_invalid_as_a_whole_is_named_by_its_parent() {
        let field = |problem: Problem| problem.within("jobs[2]").field;
        let named = field(Problem::invalid("language", "unknown"));
        assert_eq!(named.as_deref(), Some("jobs[2].language"));
        let whole = field(Problem::new(Kind::Invalid, "must be an object"));
        assert_eq!(whole.as_deref(), Some("jobs[2]"));
        assert_eq!(field(Problem::internal()), None);
    }

    #[test]
    fn problems_carry_their_type_field_and_headers() {
        let problem = Problem::from(Invalid::new("name", "must not be empty"));
        let body = serde_json::to_value(problem.body()).unwrap();
        assert_eq!(body["type"], "/problems/invalid");
        assert_eq!(body["field"], "name");
        assert_eq!(body["status"], 422);
        let response = Problem::from(TokenError::Expired).into_response();
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert!(
            response.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .contains("invalid_token")
        );
        let response = Problem::rate_limited(Duration::from_millis(1200)).into_response();
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
