//! People: the rows and the queries of [`crate::ports::UserRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::unstorable;
use crate::domain::ids::UserId;
use crate::domain::user::{User, UserKind};

/// Longest login looked up, in bytes (an e-mail address has at most 254, a user name 32 characters).
pub const LOGIN_MAX_BYTES: usize = 1_024;

#[derive(Debug, sqlx::FromRow)]
pub struct UserRow {
    id: Uuid,
    kind: String,
    username: String,
    name: String,
    email: Option<String>,
    avatar_url: Option<String>,
    pub password_hash: Option<String>,
    is_admin: bool,
    created_at: DateTime<Utc>,
}

impl UserRow {
    pub fn user(self) -> sqlx::Result<User> {
        let kind = match self.kind.as_str() {
            "account" => UserKind::Account,
            "guest" => UserKind::Guest,
            other => return Err(sqlx::Error::Decode(format!("user kind {other}").into())),
        };
        Ok(User {
            id: UserId(self.id),
            kind,
            username: self.username,
            name: self.name,
            email: self.email,
            avatar_url: self.avatar_url,
            is_admin: self.is_admin,
            created_at: self.created_at,
        })
    }
}

pub fn kind_word(kind: UserKind) -> sqlx::Result<&'static str> {
    match kind {
        UserKind::Account => Ok("account"),
        UserKind::Guest => Ok("guest"),
        UserKind::Anonymous => Err(unstorable("anonymous people are not stored")),
    }
}

/// Which field a unique violation is about. Postgres names the constraint, SQLite only `table.column` in its message.
pub fn taken(error: &sqlx::Error) -> Option<&'static str> {
    let error = error
        .as_database_error()
        .filter(|e| e.is_unique_violation())?;
    let place = error.constraint().unwrap_or_else(|| error.message());
    [("username_key", "username"), ("email_key", "email")]
        .into_iter()
        .find_map(|(column, field)| place.contains(column).then_some(field))
}

macro_rules! user_records {
    ($adapter:ty, $db:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::UserRecords for $adapter {
            async fn create_user(
                &self,
                new: &crate::domain::user::NewUser,
            ) -> Result<(), crate::ports::CreateUserError> {
                use crate::adapters::queries::{micros, users};
                use crate::domain::names::key;
                use crate::domain::user::UserKind;

                let user = &new.user;
                let binds = user.kind == UserKind::Account;
                let username_key = binds.then(|| key(&user.username));
                let email_key = user.email.as_deref().filter(|_| binds).map(key);
                let made = async {
                    let mut tx = self.write().await?;
                    statement(
                        "INSERT INTO users (id, kind, username, username_key, name, email, email_key, avatar_url,
                             password_hash, is_admin, created_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                    )
                    .bind(user.id.0)
                    .bind(users::kind_word(user.kind)?)
                    .bind(&user.username)
                    .bind(&username_key)
                    .bind(&user.name)
                    .bind(&user.email)
                    .bind(&email_key)
                    .bind(&user.avatar_url)
                    .bind(&new.password_hash)
                    .bind(user.is_admin)
                    .bind(micros(user.created_at))
                    .execute(&mut *tx)
                    .await?;
                    // No index spans two columns. Two registrations at the very same moment can slip past this on
                    // Postgres; user_by_login then prefers the address, which is the one that is proven by mail.
                    let (by_name, by_address): (i64, i64) = rows(
                        "SELECT (SELECT COUNT(*) FROM users WHERE email_key = $1 AND id <> $3),
                                (SELECT COUNT(*) FROM users WHERE username_key = $2 AND id <> $3)",
                    )
                    .bind(&username_key)
                    .bind(&email_key)
                    .bind(user.id.0)
                    .fetch_one(&mut *tx)
                    .await?;
                    if by_name > 0 {
                        return Ok(Some("username"));
                    }
                    if by_address > 0 {
                        return Ok(Some("email"));
                    }
                    tx.commit().await?;
                    Ok(None)
                };
                match bounded(made).await.or_else(|e: sqlx::Error| users::taken(&e).map(Some).ok_or(e)) {
                    Ok(None) => Ok(()),
                    Ok(Some(field)) => Err(crate::ports::CreateUserError::Taken(field)),
                    Err(e) => Err(failed("create a person", e).into()),
                }
            }

            async fn user(
                &self,
                id: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::domain::user::User>> {
                use crate::adapters::queries::users::UserRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<UserRow> = rows("SELECT * FROM users WHERE id = $1")
                        .bind(id.0)
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(UserRow::user).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a person", e))
            }

            async fn user_by_login(
                &self,
                login: &str,
            ) -> crate::ports::Result<Option<(crate::domain::user::User, String)>> {
                use crate::adapters::queries::users::{LOGIN_MAX_BYTES, UserRow};

                // Nobody is called so, and Postgres has no text with U+0000.
                if login.len() > LOGIN_MAX_BYTES || login.contains('\0') {
                    return Ok(None);
                }
                let found = async {
                    let mut tx = self.read().await?;
                    let key = crate::domain::names::key(login);
                    let mut row: Option<UserRow> =
                        rows("SELECT * FROM users WHERE email_key = $1")
                            .bind(&key)
                            .fetch_optional(&mut *tx)
                            .await?;
                    if row.is_none() {
                        row = rows("SELECT * FROM users WHERE username_key = $1")
                            .bind(&key)
                            .fetch_optional(&mut *tx)
                            .await?;
                    }
                    tx.commit().await?;
                    let Some(mut row) = row else { return Ok(None) };
                    // Without a password nobody can log in.
                    let Some(hash) = row.password_hash.take() else {
                        return Ok(None);
                    };
                    Ok(Some((row.user()?, hash)))
                };
                bounded(found).await.map_err(|e| failed("find a login", e))
            }

            async fn is_login_taken(&self, login: &str) -> crate::ports::Result<bool> {
                // As in user_by_login.
                if login.contains('\0') {
                    return Ok(false);
                }
                let asked = async {
                    let mut tx = self.read().await?;
                    let (by_name, by_address): (i64, i64) = rows(
                        "SELECT (SELECT COUNT(*) FROM users WHERE username_key = $1),
                                (SELECT COUNT(*) FROM users WHERE email_key = $1)",
                    )
                    .bind(crate::domain::names::key(login))
                    .fetch_one(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(by_name + by_address > 0)
                };
                bounded(asked).await.map_err(|e| failed("look for a login", e))
            }

            async fn patch_user(
                &self,
                id: crate::domain::ids::UserId,
                patch: &crate::ports::UserPatch,
            ) -> Result<Option<crate::domain::user::User>, crate::ports::CreateUserError> {
                use crate::adapters::queries::users::{self, UserRow};

                let email = patch.email.clone().flatten();
                let email_key = email.as_deref().map(crate::domain::names::key);
                let patched = async {
                    let mut tx = self.write().await?;
                    let row: Option<UserRow> = rows(
                        "UPDATE users SET name = COALESCE($2, name),
                             email = CASE WHEN $3 THEN $4 ELSE email END,
                             email_key = CASE WHEN $3 THEN $5 ELSE email_key END,
                             avatar_url = CASE WHEN $6 THEN $7 ELSE avatar_url END
                         WHERE id = $1 RETURNING *",
                    )
                    .bind(id.0)
                    .bind(&patch.name)
                    .bind(patch.email.is_some())
                    .bind(&email)
                    .bind(&email_key)
                    .bind(patch.avatar_url.is_some())
                    .bind(patch.avatar_url.clone().flatten())
                    .fetch_optional(&mut *tx)
                    .await?;
                    // As in create_user.
                    let (others,): (i64,) =
                        rows("SELECT COUNT(*) FROM users WHERE username_key = $1 AND id <> $2")
                            .bind(&email_key)
                            .bind(id.0)
                            .fetch_one(&mut *tx)
                            .await?;
                    if others > 0 {
                        return Ok(Err("email"));
                    }
                    tx.commit().await?;
                    row.map(UserRow::user).transpose().map(Ok)
                };
                let patched = bounded(patched).await;
                match patched.or_else(|e: sqlx::Error| users::taken(&e).map(Err).ok_or(e)) {
                    Ok(Ok(found)) => Ok(found),
                    Ok(Err(field)) => Err(crate::ports::CreateUserError::Taken(field)),
                    Err(e) => Err(failed("change a person", e).into()),
                }
            }

            async fn delete_user(
                &self,
                id: crate::domain::ids::UserId,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<crate::ports::UserDeletion> {
                use crate::adapters::queries::{micros, places};
                use crate::domain::place::PlaceRole;
                use crate::ports::UserDeletion;

                let deleted = async {
                    let mut tx = self.write().await?;
                    // The locks of lock_place, so that nobody else stops owning what this person owns meanwhile.
                    statement(
                        "UPDATE places SET version = version + 1 WHERE id IN (
                             SELECT COALESCE(places.parent, places.id)
                             FROM place_members JOIN places ON places.id = place_members.place_id
                             WHERE place_members.user_id = $1
                         )",
                    )
                    .bind(id.0)
                    .execute(&mut *tx)
                    .await?;
                    // A project's owners may all go: the workspace's own it.
                    let alone: Vec<places::PlaceRow> = rows(
                        "SELECT places.* FROM place_members JOIN places ON places.id = place_members.place_id
                         WHERE place_members.user_id = $1 AND place_members.role = $2 AND places.parent IS NULL
                             AND NOT EXISTS (
                                 SELECT 1 FROM place_members AS others
                                 WHERE others.place_id = places.id AND others.role = $2 AND others.user_id <> $1
                             )",
                    )
                    .bind(id.0)
                    .bind(PlaceRole::Owner.as_str())
                    .fetch_all(&mut *tx)
                    .await?;
                    for row in alone {
                        let (place, _) = row.place()?;
                        let (people, rooms): (i64, i64) = rows(
                            "SELECT (SELECT COUNT(*) FROM place_members WHERE user_id <> $2 AND place_id IN
                                        (SELECT id FROM places WHERE id = $1 OR parent = $1)),
                                    (SELECT COUNT(*) FROM rooms WHERE project_id IN
                                        (SELECT id FROM places WHERE id = $1 OR parent = $1))",
                        )
                        .bind(place.id.0)
                        .bind(id.0)
                        .fetch_one(&mut *tx)
                        .await?;
                        if people + rooms > 0 {
                            return Ok(UserDeletion::LastOwner(place));
                        }
                        statement("DELETE FROM places WHERE id = $1")
                            .bind(place.id.0)
                            .execute(&mut *tx)
                            .await?;
                    }
                    let gone = statement("DELETE FROM users WHERE id = $1")
                        .bind(id.0)
                        .execute(&mut *tx)
                        .await?;
                    if gone.rows_affected() == 0 {
                        return Ok(UserDeletion::Missing);
                    }
                    statement("INSERT INTO deleted_users (id, deleted_at) VALUES ($1, $2)")
                        .bind(id.0)
                        .bind(micros(at))
                        .execute(&mut *tx)
                        .await?;
                    let raised: Vec<(String, i64)> = rows(
                        "UPDATE rooms SET role_version = role_version + 1
                         WHERE id IN (
                             SELECT room_id FROM room_members WHERE user_id = $1
                             UNION
                             SELECT rooms.id FROM place_members JOIN rooms ON rooms.project_id = place_members.place_id
                             WHERE place_members.user_id = $1
                             UNION
                             SELECT rooms.id FROM place_members
                             JOIN places ON places.parent = place_members.place_id
                             JOIN rooms ON rooms.project_id = places.id
                             WHERE place_members.user_id = $1
                         )
                         RETURNING id, role_version",
                    )
                    .bind(id.0)
                    .fetch_all(&mut *tx)
                    .await?;
                    for theirs in [
                        "DELETE FROM room_members WHERE user_id = $1",
                        "DELETE FROM place_members WHERE user_id = $1",
                        "DELETE FROM insight_votes WHERE user_id = $1",
                        // What was shared with a team stays, without the name.
                        "DELETE FROM insights WHERE author = $1 AND team_id IS NULL",
                    ] {
                        statement(theirs).bind(id.0).execute(&mut *tx).await?;
                    }
                    statement("UPDATE jobs SET owner_name = $2 WHERE owner = $1")
                        .bind(id.0)
                        .bind(crate::domain::user::DELETED_NAME)
                        .execute(&mut *tx)
                        .await?;
                    statement("UPDATE room_visits SET name = $2 WHERE user_id = $1")
                        .bind(id.0)
                        .bind(crate::domain::user::DELETED_NAME)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    places::versions(raised).map(UserDeletion::Done)
                };
                bounded(deleted).await.map_err(|e| failed("delete a person", e))
            }

            async fn deleted_users(
                &self,
                ids: &[crate::domain::ids::UserId],
            ) -> crate::ports::Result<Vec<crate::domain::ids::UserId>> {
                if ids.is_empty() {
                    return Ok(Vec::new());
                }
                let found = async {
                    let mut tx = self.read().await?;
                    let mut query =
                        sqlx::QueryBuilder::<$db>::new("SELECT id FROM deleted_users WHERE id IN (");
                    let mut list = query.separated(", ");
                    for id in ids.iter().take(crate::ports::PAGE_MAX) {
                        list.push_bind(id.0);
                    }
                    query.push(")");
                    let rows: Vec<(uuid::Uuid,)> =
                        query.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
                    tx.commit().await?;
                    let ids = rows.into_iter().map(|(id,)| crate::domain::ids::UserId(id));
                    sqlx::Result::Ok(ids.collect())
                };
                bounded(found).await.map_err(|e| failed("look for deleted people", e))
            }

            async fn guests(
                &self,
                before: chrono::DateTime<chrono::Utc>,
                after: Option<crate::domain::ids::UserId>,
                limit: usize,
            ) -> crate::ports::Result<Vec<(crate::domain::ids::UserId, bool)>> {
                let limit = i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX);
                let listed = async {
                    let mut tx = self.read().await?;
                    // The page first: what its guests are is looked up for them alone.
                    let rows: Vec<(uuid::Uuid, bool)> = rows(
                        "SELECT page.id, EXISTS (SELECT 1 FROM room_members WHERE room_members.user_id = page.id)
                             OR EXISTS (SELECT 1 FROM place_members WHERE place_members.user_id = page.id)
                             OR EXISTS (SELECT 1 FROM insights WHERE insights.author = page.id) AS is_something
                         FROM (
                             SELECT id FROM users WHERE kind = 'guest' AND id > $1 AND created_at < $2
                             ORDER BY id LIMIT +$3
                         ) AS page
                         ORDER BY page.id",
                    )
                    .bind(after.map_or(uuid::Uuid::nil(), |id| id.0))
                    .bind(crate::adapters::queries::micros(before))
                    .bind(limit)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    let guests = rows.into_iter().map(|(id, is)| (crate::domain::ids::UserId(id), is));
                    sqlx::Result::Ok(guests.collect())
                };
                bounded(listed).await.map_err(|e| failed("list guests", e))
            }

            async fn forget_guest(
                &self,
                id: crate::domain::ids::UserId,
            ) -> crate::ports::Result<bool> {
                let forgotten = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        "DELETE FROM users WHERE id = $1 AND kind = 'guest'
                             AND NOT EXISTS (SELECT 1 FROM room_members WHERE room_members.user_id = $1)
                             AND NOT EXISTS (SELECT 1 FROM place_members WHERE place_members.user_id = $1)
                             AND NOT EXISTS (SELECT 1 FROM insights WHERE insights.author = $1)",
                    )
                    .bind(id.0)
                    .execute(&mut *tx)
                    .await?;
                    if done.rows_affected() == 0 {
                        return Ok(false);
                    }
                    statement("DELETE FROM insight_votes WHERE user_id = $1")
                        .bind(id.0)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(forgotten).await.map_err(|e| failed("forget a guest", e))
            }

            async fn set_password_hash(
                &self,
                id: crate::domain::ids::UserId,
                hash: &str,
            ) -> crate::ports::Result<()> {
                let set = async {
                    let mut tx = self.write().await?;
                    let done = statement("UPDATE users SET password_hash = $2 WHERE id = $1")
                        .bind(id.0)
                        .bind(hash)
                        .execute(&mut *tx)
                        .await?;
                    if done.rows_affected() == 0 {
                        return Err(sqlx::Error::RowNotFound);
                    }
                    tx.commit().await
                };
                bounded(set).await.map_err(|e| failed("set a password", e))
            }

            async fn set_admin(
                &self,
                username: &str,
                is_admin: bool,
            ) -> crate::ports::Result<bool> {
                // As in user_by_login.
                if username.contains('\0') {
                    return Ok(false);
                }
                let set = async {
                    let mut tx = self.write().await?;
                    let done = statement("UPDATE users SET is_admin = $2 WHERE username_key = $1")
                        .bind(crate::domain::names::key(username))
                        .bind(is_admin)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    Ok(done.rows_affected() > 0)
                };
                bounded(set).await.map_err(|e| failed("set an administrator", e))
            }
        }
    };
}
pub(crate) use user_records;
