//! Insights: the rows and the queries of [`crate::ports::InsightRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::corrupt;
use crate::domain::ids::{InsightId, PlaceId, UserId};
use crate::domain::insight::Insight;
use crate::ports::InsightSeen;

#[derive(Debug, sqlx::FromRow)]
pub struct InsightRow {
    id: Uuid,
    team_id: Option<Uuid>,
    author: Uuid,
    title: String,
    body: String,
    tags: String,
    links: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    #[sqlx(default)]
    author_name: Option<String>,
    #[sqlx(default)]
    votes: i64,
    #[sqlx(default)]
    voted: i64,
}

impl InsightRow {
    pub fn seen(self) -> sqlx::Result<InsightSeen> {
        Ok(InsightSeen {
            insight: Insight {
                id: InsightId(self.id),
                team: self.team_id.map(PlaceId),
                author: UserId(self.author),
                title: self.title,
                body: self.body,
                tags: serde_json::from_str(&self.tags).map_err(corrupt)?,
                links: serde_json::from_str(&self.links).map_err(corrupt)?,
                created_at: self.created_at,
                updated_at: self.updated_at,
            },
            author_name: self.author_name,
            votes: u64::try_from(self.votes).map_err(corrupt)?,
            voted: self.voted > 0,
        })
    }
}

/// A search text as a pattern for LIKE with the escape `!`.
pub fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

macro_rules! insight_records {
    ($adapter:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::InsightRecords for $adapter {
            async fn create_insight(
                &self,
                insight: &crate::domain::insight::Insight,
            ) -> crate::ports::Result<bool> {
                use crate::adapters::queries::{micros, unstorable};

                let made = async {
                    let tags = serde_json::to_string(&insight.tags).map_err(unstorable)?;
                    let links = serde_json::to_string(&insight.links).map_err(unstorable)?;
                    let mut tx = self.write().await?;
                    if let Some(team) = insight.team
                        && !Self::lock_place(&mut tx, team).await?
                    {
                        return Ok(false);
                    }
                    statement(
                        "INSERT INTO insights (id, team_id, author, title, body, tags, links, words, created_at,
                             updated_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                    )
                    .bind(insight.id.0)
                    .bind(insight.team.map(|team| team.0))
                    .bind(insight.author.0)
                    .bind(&insight.title)
                    .bind(&insight.body)
                    .bind(tags)
                    .bind(links)
                    .bind(insight.words())
                    .bind(micros(insight.created_at))
                    .bind(micros(insight.updated_at))
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(made).await.map_err(|e| failed("create an insight", e))
            }

            async fn insight(
                &self,
                id: crate::domain::ids::InsightId,
                reader: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::ports::InsightSeen>> {
                use crate::adapters::queries::insights::InsightRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<InsightRow> = rows(
                        "SELECT insights.*, users.name AS author_name,
                             (SELECT COUNT(*) FROM insight_votes WHERE insight_id = insights.id) AS votes,
                             (SELECT COUNT(*) FROM insight_votes WHERE insight_id = insights.id AND user_id = $2) AS voted
                         FROM insights LEFT JOIN users ON users.id = insights.author WHERE insights.id = $1",
                    )
                    .bind(id.0)
                    .bind(reader.0)
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(InsightRow::seen).transpose()
                };
                bounded(found).await.map_err(|e| failed("find an insight", e))
            }

            async fn list_insights(
                &self,
                reader: crate::domain::ids::UserId,
                filter: &crate::ports::InsightFilter,
                before: Option<crate::domain::ids::InsightId>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::ports::InsightSeen>> {
                use crate::adapters::queries::insights::{InsightRow, containing};
                use crate::adapters::queries::{one_more, page};

                // A tag stands in its JSON array between quotes.
                let tag = if filter.tag.is_empty() {
                    "%".to_owned()
                } else {
                    containing(&serde_json::Value::from(filter.tag.as_str()).to_string())
                };
                // One's own, and of each team's the newest as many as fit the page.
                let listed = async {
                    let mut tx = self.browse().await?;
                    let rows: Vec<InsightRow> = rows(
                        "SELECT insights.*, users.name AS author_name,
                             (SELECT COUNT(*) FROM insight_votes WHERE insight_id = insights.id) AS votes,
                             (SELECT COUNT(*) FROM insight_votes WHERE insight_id = insights.id AND user_id = $1) AS voted
                         FROM insights LEFT JOIN users ON users.id = insights.author
                         WHERE insights.id IN (
                             SELECT id FROM (
                                 SELECT id FROM insights WHERE author = $1 AND id < $2
                                     AND words LIKE $4 ESCAPE '!' AND tags LIKE $5 ESCAPE '!'
                                     AND ($6 = 0 OR team_id = $7)
                                 ORDER BY id DESC LIMIT +$3
                             ) AS own
                             UNION
                             SELECT shared.id FROM place_members AS mine
                             JOIN insights AS shared ON shared.team_id = mine.place_id
                             WHERE mine.user_id = $1 AND ($6 = 0 OR mine.place_id = $7) AND shared.id < $2
                                 AND shared.words LIKE $4 ESCAPE '!' AND shared.tags LIKE $5 ESCAPE '!'
                                 AND shared.id >= COALESCE((
                                     SELECT older.id FROM insights AS older
                                     WHERE older.team_id = mine.place_id AND older.id < $2
                                         AND older.words LIKE $4 ESCAPE '!' AND older.tags LIKE $5 ESCAPE '!'
                                     ORDER BY older.id DESC LIMIT 1 OFFSET +$3
                                 ), $8)
                         )
                         ORDER BY insights.id DESC LIMIT +$3",
                    )
                    .bind(reader.0)
                    .bind(before.map_or(uuid::Uuid::max(), |id| id.0))
                    .bind(one_more(limit))
                    .bind(containing(&filter.search))
                    .bind(tag)
                    .bind(i64::from(filter.team.is_some()))
                    .bind(filter.team.map(|team| team.0))
                    .bind(uuid::Uuid::nil())
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(InsightRow::seen).collect::<sqlx::Result<Vec<_>>>()
                };
                let insights = bounded(listed).await.map_err(|e| failed("list insights", e))?;
                Ok(page(insights, limit))
            }

            async fn patch_insight(
                &self,
                id: crate::domain::ids::InsightId,
                patch: &crate::ports::InsightPatch,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                use crate::adapters::queries::insights::InsightRow;
                use crate::adapters::queries::{micros, unstorable};

                let patched = async {
                    let tags = patch.tags.as_ref().map(serde_json::to_string);
                    let links = patch.links.as_ref().map(serde_json::to_string);
                    let mut tx = self.write().await?;
                    // Locks the row; what is searched is then made of the whole of it.
                    let row: Option<InsightRow> = rows(
                        "UPDATE insights SET title = COALESCE($2, title), body = COALESCE($3, body),
                             tags = COALESCE($4, tags), links = COALESCE($5, links), updated_at = $6
                         WHERE id = $1 RETURNING *",
                    )
                    .bind(id.0)
                    .bind(&patch.title)
                    .bind(&patch.body)
                    .bind(tags.transpose().map_err(unstorable)?)
                    .bind(links.transpose().map_err(unstorable)?)
                    .bind(micros(at))
                    .fetch_optional(&mut *tx)
                    .await?;
                    let Some(row) = row else { return Ok(false) };
                    statement("UPDATE insights SET words = $2 WHERE id = $1")
                        .bind(id.0)
                        .bind(row.seen()?.insight.words())
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(patched).await.map_err(|e| failed("change an insight", e))
            }

            async fn delete_insight(
                &self,
                id: crate::domain::ids::InsightId,
            ) -> crate::ports::Result<bool> {
                let deleted = async {
                    let mut tx = self.write().await?;
                    let done = statement("DELETE FROM insights WHERE id = $1")
                        .bind(id.0)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(deleted).await.map_err(|e| failed("delete an insight", e))
            }

            async fn vote(
                &self,
                id: crate::domain::ids::InsightId,
                user: crate::domain::ids::UserId,
                votes: bool,
            ) -> crate::ports::Result<bool> {
                let voted = async {
                    let mut tx = self.write().await?;
                    let there: Option<(uuid::Uuid,)> = rows("SELECT id FROM insights WHERE id = $1")
                        .bind(id.0)
                        .fetch_optional(&mut *tx)
                        .await?;
                    if there.is_none() {
                        return Ok(false);
                    }
                    let change = if votes {
                        "INSERT INTO insight_votes (insight_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
                    } else {
                        "DELETE FROM insight_votes WHERE insight_id = $1 AND user_id = $2"
                    };
                    let done = statement(change).bind(id.0).bind(user.0).execute(&mut *tx).await;
                    if let Err(sqlx::Error::Database(error)) = &done
                        && error.is_foreign_key_violation()
                    {
                        // It went in between.
                        return Ok(false);
                    }
                    done?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(voted).await.map_err(|e| failed("vote for an insight", e))
            }
        }
    };
}
pub(crate) use insight_records;
