//! `/auth/register` and `/auth/guest`: how somebody comes to have tokens.

use std::time::Duration;

use atelier_shared::domain::ids::UserId;
use atelier_shared::domain::names;
use atelier_shared::domain::user::{NewUser, User, UserKind};
use atelier_shared::ports::CreateUserError;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use chrono::{SubsecRound, Utc};
use serde::Deserialize;
use utoipa::ToSchema;

use super::auth::{PASSWORD_MAX_BYTES, Tokens, throttle, tokens, too_long};
use super::client::{ClientAddress, bearer};
use super::extract::Body;
use super::problem::Problem;
use super::refusals::{BadBody, Failures, Taken};
use super::state::App;

const PASSWORD_MIN_CHARS: usize = 8;
/// RFC 5321: the longest path is 256 with its brackets.
const EMAIL_MAX_BYTES: usize = 254;
const REGISTRATION_WINDOW: Duration = Duration::from_secs(60 * 60);

#[derive(Deserialize, ToSchema)]
pub struct Register {
    /// Unique, 1 to 32 characters, no `@`
    #[schema(example = "ana")]
    username: String,
    /// At least 8 characters
    #[schema(min_length = 8, example = "correct horse battery staple", format = Password)]
    password: String,
    #[schema(example = "ana@example.com")]
    email: Option<String>,
    /// Display name; the user name where absent
    #[schema(example = "Ana")]
    name: Option<String>,
}

#[derive(Deserialize, ToSchema)]
pub struct Guest {
    /// Display name, 1 to 32 characters
    #[schema(example = "Ben")]
    name: String,
}

/// Makes an account and logs it in.
#[utoipa::path(post, path = "/auth/register", tag = "auth", request_body = Register, responses(
    (status = 201, description = "The account, logged in", body = Tokens), BadBody, Taken, Failures,
))]
pub async fn register(
    State(app): State<App>,
    address: ClientAddress,
    headers: HeaderMap,
    Body(asked): Body<Register>,
) -> Result<impl IntoResponse, Problem> {
    let username = names::name("username", &asked.username)?;
    if username.contains('@') {
        return Err(Problem::invalid("username", "must not hold an @"));
    }
    check_password(&asked.password)?;
    let email = asked.email.as_deref().map(check_email).transpose()?;
    let name = match &asked.name {
        Some(name) => names::name("name", name)?,
        None => username.clone(),
    };
    throttle_registration(&app, &address).await?;
    let id = UserId::generate();
    let asker = asker(&app, &headers).await.unwrap_or(id);
    // What one goes by as a guest oneself is free for oneself.
    take_name(&app, "username", &username, asker).await?;
    let made = make_account(&app, id, username.clone(), name, email, asked.password).await;
    if made.is_err() && asker == id {
        let_go(&app, &username, id).await;
    }
    made
}

async fn make_account(
    app: &App,
    id: UserId,
    username: String,
    name: String,
    email: Option<String>,
    password: String,
) -> Result<impl IntoResponse + use<>, Problem> {
    let hash = app.passwords.hash(password).await?;
    let user = User {
        id,
        kind: UserKind::Account,
        username,
        name,
        email,
        avatar_url: None,
        is_admin: false,
        created_at: Utc::now().trunc_subsecs(6),
    };
    create(app, user, Some(hash)).await
}

/// Whoever a good token says sends this; a bad one is nobody's business here.
async fn asker(app: &App, headers: &HeaderMap) -> Option<UserId> {
    let token = bearer(headers).ok().flatten()?;
    let principal = app.identity.authenticate(token).await.ok()?;
    principal.row()
}

/// Holds a name, an account's for ever, a guest's as [`super::users::check`] says; a made-up one is held only while somebody
/// goes by it. Where `UNIQUE_NAMES` is set, a name that somebody else holds is refused (409).
pub(super) async fn take_name(
    app: &App,
    field: &'static str,
    name: &str,
    person: UserId,
) -> Result<(), Problem> {
    let (presence, key) = (&app.backends.presence, names::key(name));
    let delay = app.config.user_release_delay();
    if !app.config.unique_names {
        if !names::is_made_up(name) {
            presence.hold_name(&key, person, delay).await?;
        }
        return Ok(());
    }
    let held = app.backends.records.is_login_taken(name).await?
        || if names::is_made_up(name) {
            presence.is_name_held(&key, Some(person)).await?
        } else {
            !presence.take_name(&key, person, delay).await?
        };
    if held {
        return Err(Problem::conflict(format!("This {field} is taken.")).at(field));
    }
    Ok(())
}

/// Nothing came of it: the name is free at once, not only after its time.
pub(super) async fn let_go(app: &App, name: &str, person: UserId) {
    let (presence, key) = (&app.backends.presence, names::key(name));
    if let Err(error) = presence.hold_name(&key, person, Duration::ZERO).await {
        tracing::debug!(%error, "a name is held for nobody until its time is over");
    }
}

/// Makes a guest: a name and tokens, no password. The guest is gone with the tokens. Where `UNIQUE_NAMES` is set, a name that
/// somebody holds is refused (409): ask `/users/check` first.
#[utoipa::path(post, path = "/auth/guest", tag = "auth", request_body = Guest, responses(
    (status = 201, description = "The guest, logged in", body = Tokens), BadBody, Taken, Failures,
))]
pub async fn guest(
    State(app): State<App>,
    address: ClientAddress,
    Body(asked): Body<Guest>,
) -> Result<impl IntoResponse, Problem> {
    let name = names::name("name", &asked.name)?;
    throttle_registration(&app, &address).await?;
    let id = UserId::generate();
    take_name(&app, "name", &name, id).await?;
    let user = User {
        id,
        kind: UserKind::Guest,
        username: name.clone(),
        name,
        email: None,
        avatar_url: None,
        is_admin: false,
        created_at: Utc::now().trunc_subsecs(6),
    };
    let name = user.name.clone();
    let made = create(&app, user, None).await;
    if made.is_err() {
        let_go(&app, &name, id).await;
    }
    made
}

async fn create(
    app: &App,
    user: User,
    password_hash: Option<String>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let new = NewUser {
        user,
        password_hash,
    };
    match app.backends.records.create_user(&new).await {
        Ok(()) => {}
        Err(CreateUserError::Taken(field)) => {
            return Err(Problem::conflict(format!("This {field} is taken.")).at(field));
        }
        Err(CreateUserError::Port(error)) => return Err(error.into()),
    }
    let login = app.identity.begin_login(new.user.id).await?;
    tokens(app, new.user, login, StatusCode::CREATED)
}

async fn throttle_registration(app: &App, address: &ClientAddress) -> Result<(), Problem> {
    throttle(
        app,
        &format!("register:{}", address.0),
        app.config.registrations_per_address,
        REGISTRATION_WINDOW,
    )
    .await
}

fn check_password(password: &str) -> Result<(), Problem> {
    if password.chars().count() < PASSWORD_MIN_CHARS {
        return Err(Problem::invalid(
            "password",
            format!("must have at least {PASSWORD_MIN_CHARS} characters"),
        ));
    }
    if password.len() > PASSWORD_MAX_BYTES {
        return Err(too_long());
    }
    Ok(())
}

/// Only the shape; that somebody reads it is known when they do.
pub(super) fn check_email(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    let shaped = text.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && domain.contains('.')
            && !domain.starts_with('.')
            && !domain.ends_with('.')
    });
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if shaped && clean && text.len() <= EMAIL_MAX_BYTES {
        return Ok(text.to_owned());
    }
    Err(Problem::invalid("email", "is not an e-mail address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_addresses_are_checked_by_shape() {
        assert!(check_password("12345678").is_ok());
        for bad in ["1234567".to_owned(), "x".repeat(1025)] {
            assert_eq!(
                check_password(&bad).unwrap_err().field.as_deref(),
                Some("password")
            );
        }
        assert_eq!(check_email(" a@b.example ").unwrap(), "a@b.example");
        for bad in ["", "a", "a@b", "@b.c", "a b@c.d", "a@.b", "a@b."] {
            assert!(check_email(bad).is_err(), "{bad}");
        }
    }
}
