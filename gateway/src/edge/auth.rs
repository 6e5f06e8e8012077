//! `/auth`: logins and their tokens.

use std::time::Duration;

use atelier_shared::domain::names;
use atelier_shared::domain::user::{User, UserKind};
use atelier_shared::ports::Throttle;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::client::{Authenticated, ClientAddress};
use super::extract::Body;
use super::health::rfc3339;
use super::problem::{Kind, Problem};
use super::refusals::{BadBody, Failures, NeedsToken};
use super::state::App;
use super::tries::{Counted, Try};
use crate::identity::{LoginTokens, Principal, Refreshed, ticket};

/// Longer ones cost only the hashing of their bytes, but a bound there must be.
pub(super) const PASSWORD_MAX_BYTES: usize = 1_024;
/// The longest user name or e-mail address that can be one.
const LOGIN_NAME_MAX_BYTES: usize = 254;
const LOGIN_WINDOW: Duration = Duration::from_secs(15 * 60);
/// An address may be an office: so many times the tries that it has for one account.
const TRIES_PER_ADDRESS: u32 = 20;

#[derive(Deserialize, ToSchema)]
pub struct Login {
    /// User name or e-mail address
    #[schema(example = "ana")]
    username: String,
    #[schema(example = "correct horse battery staple", format = Password)]
    password: String,
}

#[derive(Deserialize, ToSchema)]
pub struct RefreshToken {
    refresh_token: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Tokens {
    /// JWT; send it as `Authorization: Bearer`
    access_token: String,
    /// Good for one use; the answer to it carries the next
    refresh_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token runs out
    #[schema(example = 900)]
    expires_in: i64,
    user: UserView,
}

/// A person as they see themselves.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserView {
    id: Uuid,
    /// `account` or `guest`
    #[schema(value_type = String, example = "account")]
    kind: UserKind,
    username: String,
    name: String,
    email: Option<String>,
    avatar_url: Option<String>,
    is_admin: bool,
    created_at: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct WsTicket {
    /// Put it into the WebSocket's URL as `?ticket=`; good for one use
    ticket: String,
    /// Seconds
    #[schema(example = 30)]
    expires_in: u64,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            id: user.id.0,
            kind: user.kind,
            username: user.username,
            name: user.name,
            email: user.email,
            avatar_url: user.avatar_url,
            is_admin: user.is_admin,
            created_at: Some(rfc3339(user.created_at)),
        }
    }
}

/// Logs in. An unknown user takes as long and is answered as a wrong password is.
#[utoipa::path(post, path = "/auth/login", tag = "auth", request_body = Login, responses(
    (status = 200, description = "Logged in", body = Tokens), BadBody, NeedsToken, Failures,
))]
pub async fn login(
    State(app): State<App>,
    address: ClientAddress,
    Body(asked): Body<Login>,
) -> Result<impl IntoResponse, Problem> {
    if asked.username.is_empty() || asked.username.len() > LOGIN_NAME_MAX_BYTES {
        return Err(Problem::invalid(
            "username",
            format!("must have 1 to {LOGIN_NAME_MAX_BYTES} bytes"),
        ));
    }
    if asked.password.len() > PASSWORD_MAX_BYTES {
        return Err(too_long());
    }
    // By the pair: somebody elsewhere who guesses at an account cannot lock its owner out.
    let account = hex::encode(Sha256::digest(names::key(asked.username.trim())));
    let pair = format!("login:{account}:{}", address.0);
    let tries = app.config.login_tries;
    let per_address = tries.saturating_mul(TRIES_PER_ADDRESS);
    let own = count(&app, &pair, tries).await?;
    // What was not judged does not count: neither what the other limit refuses nor what fails here.
    let all = match count(&app, &format!("login:{}", address.0), per_address).await {
        Ok(all) => all,
        Err(problem) => {
            own.take_back().await?;
            return Err(problem);
        }
    };
    let judged = match judge(&app, asked).await {
        Ok(judged) => judged,
        Err(problem) => {
            own.take_back().await?;
            all.take_back().await?;
            return Err(problem);
        }
    };
    let Some(user) = judged else {
        return Err(Problem::new(
            Kind::WrongCredentials,
            "Wrong user name or password.",
        ));
    };
    own.forgive().await?;
    // Only this one: or a login of one's own would set guesses at others free.
    all.take_back().await?;
    let login = app.identity.begin_login(user.id).await?;
    tokens(&app, user, login, StatusCode::OK)
}

async fn count(app: &App, key: &str, limit: u32) -> Result<Try, Problem> {
    let counted = app
        .tries
        .count(&app.backends.vault, key, limit, LOGIN_WINDOW);
    match counted.await? {
        Counted::Allowed(counted) => Ok(counted),
        Counted::Wait(wait) => Err(Problem::rate_limited(wait).policy(limit, LOGIN_WINDOW)),
    }
}

/// Whose name and password these are.
async fn judge(app: &App, asked: Login) -> Result<Option<User>, Problem> {
    let known = app
        .backends
        .records
        .user_by_login(asked.username.trim())
        .await?;
    let (user, hash) = known.unzip();
    let right = app.passwords.verify(asked.password, hash).await?;
    Ok(user.filter(|_| right))
}

/// Exchanges a refresh token for new tokens. A token that comes a second time ends the login, unless it comes within
/// 30 s, which answers with the same successor.
#[utoipa::path(post, path = "/auth/refresh", tag = "auth", request_body = RefreshToken, responses(
    (status = 200, description = "New tokens", body = Tokens), BadBody, NeedsToken, Failures,
))]
pub async fn refresh(
    State(app): State<App>,
    Body(asked): Body<RefreshToken>,
) -> Result<impl IntoResponse, Problem> {
    // The account first: a token that was exchanged and not answered, because the account could not be read, would be reuse
    // when it comes again later.
    let user = match app.identity.owner_of(&asked.refresh_token).await? {
        Some(owner) => app.backends.records.user(owner).await?,
        None => None,
    };
    let login = match app.identity.refresh(&asked.refresh_token).await? {
        Refreshed::Next(login) => login,
        Refreshed::Reused(family) => {
            tracing::warn!(family = %family.id, "a replaced refresh token came back; its login is ended");
            return Err(Problem::new(
                Kind::TokenRevoked,
                "This refresh token was used before; the login is ended.",
            ));
        }
        Refreshed::Unknown => {
            return Err(Problem::new(
                Kind::TokenInvalid,
                "The refresh token is not valid.",
            ));
        }
    };
    let user = user.ok_or_else(|| Problem::new(Kind::TokenRevoked, "The account is gone."))?;
    tokens(&app, user, login, StatusCode::OK)
}

/// Ends the login that the refresh token belongs to: its access tokens are refused and its sockets closed, on every
/// gateway. An unknown token is no error.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", request_body = RefreshToken, responses(
    (status = 204, description = "Logged out"), BadBody, Failures,
))]
pub async fn logout(
    State(app): State<App>,
    Body(asked): Body<RefreshToken>,
) -> Result<StatusCode, Problem> {
    app.identity.end_login(&asked.refresh_token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A ticket for one WebSocket, for clients that can't send headers and won't put a token into a URL.
#[utoipa::path(post, path = "/auth/ws-ticket", tag = "auth", security(("bearer" = [])), responses(
    (status = 200, description = "A ticket", body = WsTicket), NeedsToken, Failures,
))]
pub async fn ws_ticket(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
) -> Result<impl IntoResponse, Problem> {
    let ticket = app.identity.issue_ticket(&principal).await?;
    let expires_in = ticket::LIFETIME.as_secs();
    Ok((NO_STORE, Json(WsTicket { ticket, expires_in })))
}

/// Who the token says one is.
#[utoipa::path(get, path = "/auth/me", tag = "auth", security(("bearer" = [])), responses(
    (status = 200, description = "You", body = UserView), NeedsToken, Failures,
))]
pub async fn me(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
) -> Result<Json<UserView>, Problem> {
    if let Some(id) = principal.row() {
        let user = app.backends.records.user(id).await?;
        let user = user.ok_or_else(|| Problem::new(Kind::TokenRevoked, "The account is gone."))?;
        return Ok(Json(user.into()));
    }
    Ok(Json(unstored(principal)))
}

/// The public keys that access tokens are signed with (RFC 7517); none where HS256 is used.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "auth", responses(
    (status = 200, description = "JSON Web Key Set", body = serde_json::Value),
))]
pub async fn jwks(State(app): State<App>) -> impl IntoResponse {
    (
        [(header::CACHE_CONTROL, "public, max-age=300")],
        Json(app.identity.jwks()),
    )
}

/// RFC 6749, section 5.1.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

pub(super) fn unstored(principal: Principal) -> UserView {
    let name = principal.name.unwrap_or_default();
    UserView {
        id: principal.user_id.0,
        kind: principal.kind,
        username: name.clone(),
        name,
        email: None,
        avatar_url: None,
        is_admin: principal.is_admin,
        created_at: None,
    }
}

pub(super) fn tokens(
    app: &App,
    user: User,
    login: LoginTokens,
    status: StatusCode,
) -> Result<impl IntoResponse + use<>, Problem> {
    let access = app.identity.issue(&user, &login.family)?;
    let tokens = Tokens {
        access_token: access.token,
        refresh_token: login.refresh_token,
        token_type: "Bearer",
        expires_in: access.lifetime.num_seconds().max(0),
        user: user.into(),
    };
    Ok((status, NO_STORE, Json(tokens)))
}

pub(super) async fn throttle(
    app: &App,
    key: &str,
    limit: u32,
    window: Duration,
) -> Result<(), Problem> {
    match app.backends.vault.throttle(key, limit, window).await? {
        Throttle::Allowed => Ok(()),
        Throttle::Wait(wait) => Err(Problem::rate_limited(wait).policy(limit, window)),
    }
}

pub(super) fn too_long() -> Problem {
    Problem::invalid(
        "password",
        format!("must have at most {PASSWORD_MAX_BYTES} bytes"),
    )
}
