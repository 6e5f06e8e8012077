//! Refresh-token families in `vault.db`; tickets and throttles in memory, for they end with the process.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use parking_lot::RwLock;
use sqlx::{Sqlite as Db, SqliteConnection, Transaction};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::once;
use super::sqlite::{Commits, Sqlite, port_error as failed};
use super::vault_memory::{Spending, Tickets, Tries};
use crate::adapters::announcements::Announcements;
use crate::domain::ids::{FamilyId, UserId};
use crate::ports::{
    CachedProfile, Changed, FAMILIES_PER_USER_MAX, Family, Once, OnceKey, REPLACED_TOKENS_MAX,
    REUSE_MARK_MIN, Result, Revoked, Rotation, Spent, Throttle, Ticket, Vault,
};

const MIGRATIONS: [(&str, &str); 2] = [
    (
        "vault",
        include_str!("../../../../migrations/sqlite/vault/0001_vault.sql"),
    ),
    (
        "once",
        include_str!("../../../../migrations/sqlite/vault/0002_once.sql"),
    ),
];

/// What is over is cleared away so much later, in case the clock was set back meanwhile.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);
/// Families that are over and cleared away at each new one: more than one, so that they don't pile up.
const CLEAR_CHUNK: i64 = 100;

pub struct SqliteVault {
    file: Sqlite,
    /// Revoked families and until when, as `vault.db` has them: asked for by every request.
    revoked: RwLock<HashMap<FamilyId, DateTime<Utc>>>,
    revocations: Announcements<Revoked>,
    changes: Announcements<Changed>,
    tickets: Tickets,
    tries: Tries,
    spending: Spending,
}

impl SqliteVault {
    /// Opens or makes `vault.db` in `folder`.
    pub async fn open(folder: &Path) -> Result<Self> {
        let file = Sqlite::open(folder, "vault.db", Commits::Synced).await?;
        file.migrate(&MIGRATIONS).await?;
        let rows: Vec<(Uuid, DateTime<Utc>)> =
            sqlx::query_as("SELECT id, until FROM revoked_families WHERE until > $1")
                .bind(Utc::now() - CLOCK_SLACK)
                .fetch_all(&file.read)
                .await
                .map_err(|e| failed("read revoked families", e))?;
        Ok(Self {
            file,
            revoked: RwLock::new(
                rows.into_iter()
                    .map(|(id, until)| (FamilyId(id), until))
                    .collect(),
            ),
            revocations: Announcements::default(),
            changes: Announcements::default(),
            tickets: Tickets::default(),
            tries: Tries::default(),
            spending: Spending::default(),
        })
    }

    async fn begin(&self) -> sqlx::Result<Transaction<'static, Db>> {
        self.file.write.begin_with("BEGIN IMMEDIATE").await
    }

    /// After the commit: from here on `is_revoked` says so, and the subscribers hear of it.
    fn announce(&self, families: &[(FamilyId, DateTime<Utc>)]) {
        let past = Utc::now() - CLOCK_SLACK;
        let mut revoked = self.revoked.write();
        revoked.retain(|_, until| *until > past);
        for (family, until) in families {
            let known = revoked.entry(*family).or_insert(*until);
            *known = (*known).max(*until);
        }
        drop(revoked);
        for (family, _) in families {
            self.revocations.tell(Revoked::Family(*family));
        }
    }
}

fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// Ends a family within a transaction; a mark is only ever prolonged.
async fn end(conn: &mut SqliteConnection, id: Uuid, until: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM families WHERE id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "INSERT INTO revoked_families (id, until) VALUES ($1, $2)
         ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)",
    )
    .bind(id)
    .bind(until)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM revoked_families WHERE until < $1")
        .bind(Utc::now() - CLOCK_SLACK)
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct FamilyRow {
    user_id: Uuid,
    expires_at: DateTime<Utc>,
    current: Vec<u8>,
}

impl FamilyRow {
    /// `None`: there is none, or it is over.
    async fn find(
        conn: &mut SqliteConnection,
        id: FamilyId,
        now: DateTime<Utc>,
    ) -> sqlx::Result<Option<Self>> {
        let row: Option<Self> =
            sqlx::query_as("SELECT user_id, expires_at, current FROM families WHERE id = $1")
                .bind(id.0)
                .fetch_optional(conn)
                .await?;
        Ok(row.filter(|row| row.expires_at > now))
    }

    fn family(&self, id: FamilyId) -> Family {
        Family {
            id,
            user_id: UserId(self.user_id),
            expires_at: self.expires_at,
        }
    }
}

async fn replaced_at(
    conn: &mut SqliteConnection,
    id: FamilyId,
    token: &[u8; 32],
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "SELECT replaced_at FROM replaced_tokens WHERE family_id = $1 AND token = $2",
    )
    .bind(id.0)
    .bind(token.as_slice())
    .fetch_optional(conn)
    .await
}

#[async_trait]
impl Vault for SqliteVault {
    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.file.read)
            .await
            .map(|_| ())
            .map_err(|e| failed("ping vault.db", e))
    }

    async fn create_family(&self, family: &Family, token: [u8; 32]) -> Result<()> {
        let created = async {
            let mut tx = self.begin().await?;
            sqlx::query(
                "DELETE FROM families WHERE id IN (
                     SELECT id FROM families WHERE expires_at < $1 ORDER BY expires_at LIMIT +$2
                 )",
            )
            .bind(Utc::now() - CLOCK_SLACK)
            .bind(CLEAR_CHUNK)
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO families (id, user_id, expires_at, current)
                 SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM revoked_families WHERE id = $1)
                 ON CONFLICT (id) DO NOTHING",
            )
            .bind(family.id.0)
            .bind(family.user_id.0)
            .bind(micros(family.expires_at))
            .bind(token.as_slice())
            .execute(&mut *tx)
            .await?;
            let excess: Vec<Uuid> = sqlx::query_scalar(
                "SELECT id FROM families WHERE user_id = $1 ORDER BY expires_at DESC, id LIMIT -1 OFFSET +$2",
            )
            .bind(family.user_id.0)
            .bind(i64::try_from(FAMILIES_PER_USER_MAX).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx)
            .await?;
            let until = micros(Utc::now() + REUSE_MARK_MIN);
            for id in &excess {
                end(&mut tx, *id, until).await?;
            }
            tx.commit().await?;
            sqlx::Result::Ok(
                excess
                    .into_iter()
                    .map(|id| (FamilyId(id), until))
                    .collect::<Vec<_>>(),
            )
        };
        let ended = created
            .await
            .map_err(|e| failed("create a token family", e))?;
        self.announce(&ended);
        Ok(())
    }

    async fn rotate(
        &self,
        id: FamilyId,
        token: [u8; 32],
        successor: [u8; 32],
        now: DateTime<Utc>,
        grace: Duration,
    ) -> Result<Rotation> {
        let now = micros(now);
        let until = |family: &Family| family.expires_at.max(micros(now + REUSE_MARK_MIN));
        let rotated = async {
            let mut tx = self.begin().await?;
            let Some(row) = FamilyRow::find(&mut tx, id, now).await? else {
                return Ok(Rotation::Unknown);
            };
            let family = row.family(id);
            if row.current == token {
                sqlx::query("UPDATE families SET current = $2 WHERE id = $1")
                    .bind(id.0)
                    .bind(successor.as_slice())
                    .execute(&mut *tx)
                    .await?;
                sqlx::query(
                    "INSERT INTO replaced_tokens (family_id, token, replaced_at) VALUES ($1, $2, $3)
                     ON CONFLICT (family_id, token) DO UPDATE SET replaced_at = excluded.replaced_at",
                )
                .bind(id.0)
                .bind(token.as_slice())
                .bind(now)
                .execute(&mut *tx)
                .await?;
                sqlx::query(
                    "DELETE FROM replaced_tokens WHERE family_id = $1 AND token IN (
                         SELECT token FROM replaced_tokens WHERE family_id = $1
                         ORDER BY replaced_at DESC, token DESC LIMIT -1 OFFSET +$2
                     )",
                )
                .bind(id.0)
                .bind(i64::try_from(REPLACED_TOKENS_MAX).unwrap_or(i64::MAX))
                .execute(&mut *tx)
                .await?;
                tx.commit().await?;
                return Ok(Rotation::Rotated(family));
            }
            let Some(at) = replaced_at(&mut tx, id, &token).await? else {
                return Ok(Rotation::Unknown);
            };
            if now < at + grace && row.current == successor {
                return Ok(Rotation::Grace(family));
            }
            end(&mut tx, id.0, until(&family)).await?;
            tx.commit().await?;
            sqlx::Result::Ok(Rotation::Reused(family))
        };
        let rotation = rotated
            .await
            .map_err(|e| failed("rotate a refresh token", e))?;
        if let Rotation::Reused(family) = &rotation {
            self.announce(&[(id, until(family))]);
        }
        Ok(rotation)
    }

    async fn family_of(
        &self,
        id: FamilyId,
        token: [u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<Family>> {
        let found = async {
            // One transaction: a rotation moves the token from one table to the other.
            let mut tx = self.file.read.begin().await?;
            let Some(row) = FamilyRow::find(&mut tx, id, now).await? else {
                return Ok(None);
            };
            let known = row.current == token || replaced_at(&mut tx, id, &token).await?.is_some();
            sqlx::Result::Ok(known.then(|| row.family(id)))
        };
        found.await.map_err(|e| failed("find a token family", e))
    }

    async fn revoke(&self, family: FamilyId, until: DateTime<Utc>) -> Result<()> {
        let until = micros(until);
        let revoked = async {
            let mut tx = self.begin().await?;
            end(&mut tx, family.0, until).await?;
            tx.commit().await
        };
        revoked
            .await
            .map_err(|e| failed("revoke a token family", e))?;
        self.announce(&[(family, until)]);
        Ok(())
    }

    async fn revoke_user(&self, user: UserId, until: DateTime<Utc>) -> Result<()> {
        let until = micros(until);
        let revoked = async {
            let mut tx = self.begin().await?;
            let families: Vec<Uuid> =
                sqlx::query_scalar("SELECT id FROM families WHERE user_id = $1")
                    .bind(user.0)
                    .fetch_all(&mut *tx)
                    .await?;
            for id in &families {
                end(&mut tx, *id, until).await?;
            }
            tx.commit().await?;
            sqlx::Result::Ok(
                families
                    .into_iter()
                    .map(|id| (FamilyId(id), until))
                    .collect::<Vec<_>>(),
            )
        };
        let ended = revoked
            .await
            .map_err(|e| failed("revoke a person's token families", e))?;
        self.announce(&ended);
        Ok(())
    }

    async fn logged_in(&self, users: &[UserId], now: DateTime<Utc>) -> Result<Vec<UserId>> {
        let found = async {
            let mut found = Vec::new();
            for user in users {
                let standing: Option<Uuid> = sqlx::query_scalar(
                    "SELECT id FROM families WHERE user_id = $1 AND expires_at > $2 LIMIT 1",
                )
                .bind(user.0)
                .bind(micros(now))
                .fetch_optional(&self.file.read)
                .await?;
                found.extend(standing.map(|_| *user));
            }
            sqlx::Result::Ok(found)
        };
        found.await.map_err(|e| failed("look for logins", e))
    }

    async fn is_revoked(&self, family: FamilyId, now: DateTime<Utc>) -> Result<bool> {
        Ok(self
            .revoked
            .read()
            .get(&family)
            .is_some_and(|until| *until > now))
    }

    async fn revocations(&self) -> Result<mpsc::Receiver<Revoked>> {
        Ok(self.revocations.subscribe())
    }

    async fn cached_profile(&self, _: UserId) -> Result<CachedProfile> {
        Ok(CachedProfile::default())
    }

    async fn cache_profile(&self, _: UserId, _: &str, _: u64, _: Duration) -> Result<bool> {
        Ok(false)
    }

    async fn announce_change(&self, user: UserId) -> Result<()> {
        self.changes.tell(Changed::Person(user));
        Ok(())
    }

    async fn changes(&self) -> Result<mpsc::Receiver<Changed>> {
        Ok(self.changes.subscribe())
    }

    async fn put_ticket(&self, ticket: [u8; 32], claims: &Ticket, ttl: Duration) -> Result<()> {
        self.tickets.put(ticket, claims, ttl)
    }

    async fn take_ticket(&self, ticket: [u8; 32]) -> Result<Option<Ticket>> {
        Ok(self.tickets.take(ticket))
    }

    async fn throttle(&self, key: &str, limit: u32, window: Duration) -> Result<Throttle> {
        Ok(self.tries.count(key, limit, window))
    }

    async fn spend(&self, key: &str, limit: u32, window: Duration) -> Result<Spent> {
        Ok(self.spending.spend(key, limit, window))
    }

    async fn forgive(&self, key: &str) -> Result<()> {
        self.tries.forget(key);
        Ok(())
    }

    async fn take_back(&self, key: &str) -> Result<()> {
        self.tries.take_back(key);
        Ok(())
    }

    async fn begin_once(&self, key: &OnceKey, lease: Duration) -> Result<Once> {
        once::begin(&self.file, key, lease).await
    }

    async fn answer_once(&self, key: &OnceKey, answer: &str, keep: Duration) -> Result<bool> {
        once::answer(&self.file, key, answer, keep).await
    }

    async fn forget_once(&self, key: &OnceKey) -> Result<()> {
        once::forget(&self.file, key).await
    }
}
