//! `/users`: whether a name is free, one's own profile, other people's, and deleting one's account.

use atelier_shared::domain::ids::UserId;
use atelier_shared::domain::names;
use atelier_shared::domain::user::{User, UserKind};
use atelier_shared::ports::{CreateUserError, UserDeletion, UserPatch};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::Utc;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::accounts::{check_email, let_go, take_name};
use super::auth::{UserView, unstored};
use super::client::{Authenticated, MaybePrincipal};
use super::extract::{Body, Id};
use super::health::rfc3339;
use super::places::members::fence_rooms;
use super::problem::{Kind, Problem};
use super::refusals::{BadBody, Failures, Missing, NeedsRight, NeedsToken, Taken};
use super::state::App;
use crate::identity::Principal;
use crate::room::claim_key;

#[derive(Deserialize, ToSchema)]
pub struct NameCheck {
    /// 1 to 32 characters
    #[schema(example = "ana")]
    username: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct NameAvailable {
    available: bool,
}

/// What is absent stays as it is; `null` takes away.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Ana", "avatar_url": null}))]
pub struct ProfilePatch {
    /// Display name, 1 to 32 characters
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    avatar_url: Option<Option<String>>,
    /// Accounts only; unique
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
}

/// Tells `null` from a field that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A person as others see them.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProfileView {
    id: Uuid,
    /// `account` or `guest`
    #[schema(value_type = String, example = "account")]
    kind: UserKind,
    username: String,
    name: String,
    avatar_url: Option<String>,
    created_at: String,
}

impl From<&User> for ProfileView {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.0,
            kind: user.kind,
            username: user.username.clone(),
            name: user.name.clone(),
            avatar_url: user.avatar_url.clone(),
            created_at: rfc3339(user.created_at),
        }
    }
}

/// Is this name free? Accounts hold theirs for ever, others while they are here and for a while (120 s) after their last
/// heartbeat; made-up names (`User123`) are free as soon as nobody goes by them. What you hold yourself is free for you.
#[utoipa::path(post, path = "/users/check", operation_id = "check", tag = "users", request_body = NameCheck, security((), ("bearer" = [])), responses(
    (status = 200, description = "Whether it is", body = NameAvailable), NeedsToken, BadBody, Failures,
))]
pub async fn check(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Body(asked): Body<NameCheck>,
) -> Result<Json<NameAvailable>, Problem> {
    let username = names::name("username", &asked.username)?;
    let b = &app.backends;
    let asker = principal.map(|principal| principal.user_id);
    let (held, claimed) = (names::key(&username), claim_key(&username));
    let taken = b.records.is_login_taken(&username).await?
        || b.presence.is_name_held(&held, asker).await?
        || b.presence.is_name_held(&claimed, asker).await?;
    Ok(Json(NameAvailable { available: !taken }))
}

/// You, as you see yourself.
#[utoipa::path(get, path = "/users/me", operation_id = "me", tag = "users", security(("bearer" = [])), responses(
    (status = 200, description = "You", body = UserView), NeedsToken, Failures,
))]
pub async fn me(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
) -> Result<Json<UserView>, Problem> {
    match stored(&app, &principal).await {
        Ok(user) => Ok(Json(user.into())),
        Err(problem) if problem.kind == Kind::Forbidden => Ok(Json(unstored(principal))),
        Err(problem) => Err(problem),
    }
}

/// Changes what others see of you; seen everywhere at once.
#[utoipa::path(patch, path = "/users/me", operation_id = "patch_me", tag = "users", request_body = ProfilePatch, security(("bearer" = [])), responses(
    (status = 200, description = "You, as you are now", body = UserView), NeedsRight, BadBody, Taken, Failures,
))]
pub async fn patch_me(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Body(asked): Body<ProfilePatch>,
) -> Result<Json<UserView>, Problem> {
    let user = stored(&app, &principal).await?;
    let mut patch = UserPatch {
        avatar_url: asked.avatar_url,
        ..UserPatch::default()
    };
    if let Some(name) = &asked.name {
        let name = names::name("name", name)?;
        // An account is known by its user name, and may be called as others are; a guest has no other name.
        if user.kind == UserKind::Guest && names::key(&name) != names::key(&user.name) {
            take_name(&app, "name", &name, user.id).await?;
        }
        patch.name = Some(name);
    }
    if let Some(Some(url)) = &patch.avatar_url {
        names::web_url("avatar_url", url)?;
    }
    if let Some(email) = asked.email {
        if user.kind != UserKind::Account {
            return Err(Problem::invalid("email", "is for accounts"));
        }
        patch.email = Some(email.as_deref().map(check_email).transpose()?);
    }
    let user = match app.backends.records.patch_user(user.id, &patch).await {
        Ok(Some(user)) => user,
        Ok(None) => return Err(gone()),
        Err(CreateUserError::Taken(field)) => {
            return Err(Problem::conflict(format!("This {field} is taken.")).at(field));
        }
        Err(CreateUserError::Port(error)) => return Err(error.into()),
    };
    app.profiles.changed(user.id).await?;
    Ok(Json(user.into()))
}

/// Deletes you: logins end and sockets close everywhere, memberships are gone, and what you wrote stays without your
/// name. The last owner of a workspace or team that is not empty makes somebody else owner first (409).
#[utoipa::path(delete, path = "/users/me", operation_id = "delete_me", tag = "users", security(("bearer" = [])), responses(
    (status = 204, description = "Gone"), NeedsRight, Taken, Failures,
))]
pub async fn delete_me(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
) -> Result<StatusCode, Problem> {
    let user = stored(&app, &principal).await?;
    // On a task of its own: a caller who hangs up must not leave a deleted person with open sockets.
    let app = app.clone();
    let work = async move {
        let done = delete(&app, user.id).await;
        if done.is_ok() {
            let_go(&app, &user.username, user.id).await;
        }
        done
    };
    tokio::spawn(work).await.map_err(|_| Problem::internal())?
}

async fn delete(app: &App, id: UserId) -> Result<StatusCode, Problem> {
    let b = &app.backends;
    let rooms = match b.records.delete_user(id, Utc::now()).await? {
        UserDeletion::Done(rooms) => rooms,
        UserDeletion::Missing => return Err(gone()),
        UserDeletion::LastOwner(place) => {
            return Err(Problem::conflict(format!(
                "You are the last owner of the {} {}; make somebody else owner, or delete it.",
                place.kind.as_str(),
                place.id
            )));
        }
    };
    // First the sockets; then whatever still runs is fenced by the rooms' logs.
    app.identity.end_all_logins(id).await?;
    app.profiles.deleted(id).await?;
    fence_rooms(app, &rooms).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Somebody else, as everybody sees them.
#[utoipa::path(get, path = "/users/{user_id}", operation_id = "get", tag = "users", params(("user_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The person", body = ProfileView), NeedsToken, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    Authenticated(_): Authenticated,
    Id(id): Id<UserId>,
) -> Result<Json<ProfileView>, Problem> {
    let user = app.profiles.get(id).await?;
    let user = user.ok_or_else(|| Problem::not_found("person"))?;
    Ok(Json(ProfileView::from(&*user)))
}

/// The asker's row. Whoever holds the administrator's token is nobody in particular: 403.
async fn stored(app: &App, principal: &Principal) -> Result<User, Problem> {
    let id = principal
        .row()
        .ok_or_else(|| Problem::forbidden("This token belongs to nobody in particular."))?;
    app.backends.records.user(id).await?.ok_or_else(gone)
}

fn gone() -> Problem {
    Problem::new(Kind::TokenRevoked, "The account is gone.")
}
