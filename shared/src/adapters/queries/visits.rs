//! Who was in which room: the rows and the queries of [`crate::ports::VisitRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::parse;
use crate::domain::ids::UserId;
use crate::domain::visit::VisitEvent;

/// Before the first page: greater than both words for coming and going.
pub const BEFORE_ALL: i64 = 2;

#[derive(Debug, sqlx::FromRow)]
pub struct VisitRow {
    moment: DateTime<Utc>,
    gone: i32,
    client_id: String,
    user_id: Uuid,
    name: String,
    color: String,
    simulated: bool,
    reason: Option<String>,
}

impl VisitRow {
    pub fn event(self) -> sqlx::Result<VisitEvent> {
        Ok(VisitEvent {
            at: self.moment,
            gone: self.gone != 0,
            client_id: parse(&self.client_id)?,
            user_id: UserId(self.user_id),
            name: self.name,
            color: self.color,
            simulated: self.simulated,
            reason: self.reason,
        })
    }
}

macro_rules! visit_records {
    ($adapter:ty, $db:ty) => {
        impl $adapter {
            async fn begin_visits(
                tx: &mut sqlx::Transaction<'static, $db>,
                visits: &[crate::domain::visit::Visit],
            ) -> sqlx::Result<()> {
                use crate::adapters::queries::micros;

                let mut insert = sqlx::QueryBuilder::<$db>::new(
                    "INSERT INTO room_visits
                         (room_id, client_id, joined_at, user_id, name, color, simulated, left_at, reason)
                     SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9 FROM (",
                );
                insert.push_values(visits, |mut row, visit| {
                    row.push_bind(visit.room.as_str())
                        .push_bind(visit.client_id.as_str())
                        .push_bind(micros(visit.joined_at))
                        .push_bind(visit.user_id.0)
                        .push_bind(visit.name.as_str())
                        .push_bind(visit.color.as_str())
                        .push_bind(visit.simulated)
                        .push_bind(visit.left.as_ref().map(|left| micros(left.at)))
                        .push_bind(visit.left.as_ref().and_then(|left| left.reason.as_deref()));
                });
                // Again, and over meanwhile: the first time may have been noted although its answer was lost.
                insert.push(
                    ") AS came WHERE EXISTS (SELECT 1 FROM rooms WHERE rooms.id = came.column1)
                     ON CONFLICT (room_id, client_id, joined_at) DO UPDATE SET
                         reason = CASE WHEN room_visits.left_at IS NULL THEN excluded.reason ELSE room_visits.reason END,
                         left_at = COALESCE(room_visits.left_at, excluded.left_at)",
                );
                insert.build().persistent(false).execute(&mut **tx).await?;
                Ok(())
            }

            /// A client goes once in these.
            async fn end_visits(
                tx: &mut sqlx::Transaction<'static, $db>,
                departures: &[&crate::domain::visit::Departure],
            ) -> sqlx::Result<()> {
                use crate::adapters::queries::micros;

                let mut update = sqlx::QueryBuilder::<$db>::new(
                    "UPDATE room_visits SET
                         left_at = COALESCE((
                             SELECT MIN(later.joined_at) FROM room_visits AS later
                             WHERE later.room_id = room_visits.room_id AND later.client_id = room_visits.client_id
                                 AND later.joined_at > room_visits.joined_at AND later.joined_at <= went.column3
                         ), went.column3),
                         reason = went.column4
                     FROM (",
                );
                update.push_values(departures, |mut row, departure| {
                    row.push_bind(departure.room.as_str())
                        .push_bind(departure.client_id.as_str())
                        .push_bind(micros(departure.left.at))
                        .push_bind(departure.left.reason.as_deref());
                });
                update.push(
                    ") AS went
                     WHERE room_visits.room_id = went.column1 AND room_visits.client_id = went.column2
                         AND room_visits.left_at IS NULL AND room_visits.joined_at <= went.column3",
                );
                update.build().persistent(false).execute(&mut **tx).await?;
                Ok(())
            }

            /// Of each of these rooms the latest stay.
            async fn trim_visits(
                tx: &mut sqlx::Transaction<'static, $db>,
                rooms: &[&str],
            ) -> sqlx::Result<()> {
                let mut full = sqlx::QueryBuilder::<$db>::new(
                    "SELECT room_id, joined_at FROM (
                         SELECT room_id, joined_at,
                             ROW_NUMBER() OVER (PARTITION BY room_id ORDER BY joined_at DESC, client_id DESC) AS place
                         FROM room_visits WHERE room_id IN (",
                );
                let mut list = full.separated(", ");
                for room in rooms {
                    list.push_bind(*room);
                }
                let most = i64::try_from(crate::ports::VISITS_MAX).unwrap_or(i64::MAX);
                full.push(")) AS placed WHERE place = ").push_bind(most + 1);
                let full: Vec<(String, chrono::DateTime<chrono::Utc>)> =
                    full.build_query_as().persistent(false).fetch_all(&mut **tx).await?;
                for (room, too_old) in full {
                    statement("DELETE FROM room_visits WHERE room_id = $1 AND joined_at <= $2")
                        .bind(room)
                        .bind(too_old)
                        .execute(&mut **tx)
                        .await?;
                }
                Ok(())
            }
        }

        #[async_trait::async_trait]
        impl crate::ports::VisitRecords for $adapter {
            async fn note_visits(&self, batch: &crate::domain::visit::VisitBatch) -> crate::ports::Result<()> {
                use crate::adapters::queries::LIST_CHUNK;

                if batch.is_empty() {
                    return Ok(());
                }
                let noted = async {
                    let mut tx = self.write().await?;
                    // First, as it was: a departure is of somebody who came before all that the batch has of them.
                    for round in batch.rounds() {
                        for chunk in round.chunks(LIST_CHUNK) {
                            Self::end_visits(&mut tx, chunk).await?;
                        }
                    }
                    for chunk in batch.visits().chunks(LIST_CHUNK) {
                        Self::begin_visits(&mut tx, chunk).await?;
                    }
                    let rooms: std::collections::BTreeSet<&str> =
                        batch.visits().iter().map(|visit| visit.room.as_str()).collect();
                    let rooms: Vec<&str> = rooms.into_iter().collect();
                    for chunk in rooms.chunks(LIST_CHUNK) {
                        Self::trim_visits(&mut tx, chunk).await?;
                    }
                    tx.commit().await
                };
                bounded(noted).await.map_err(|e| failed("note visits", e))
            }

            async fn visits(
                &self,
                room: &crate::domain::ids::RoomId,
                before: Option<&crate::domain::visit::VisitPlace>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::visit::VisitEvent>> {
                use crate::adapters::queries::{
                    end_of_time, micros, one_more, page,
                    visits::{BEFORE_ALL, VisitRow},
                };

                let (at, gone, client) = match before {
                    Some(place) => (
                        micros(place.at),
                        i64::from(place.gone),
                        place.client_id.as_ref().map_or("", |client| client.as_str()),
                    ),
                    None => (end_of_time(), BEFORE_ALL, ""),
                };
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<VisitRow> = rows(
                        "SELECT * FROM (
                             SELECT * FROM (
                                 SELECT joined_at AS moment, 0 AS gone, client_id, user_id, name, color, simulated,
                                     CAST(NULL AS TEXT) AS reason
                                 FROM room_visits
                                 WHERE room_id = $1 AND joined_at <= $2
                                     AND (joined_at < $2 OR $3 > 0 OR client_id < $4)
                                 ORDER BY joined_at DESC, client_id DESC LIMIT +$5
                             ) AS came
                             UNION ALL
                             SELECT * FROM (
                                 SELECT left_at AS moment, 1 AS gone, client_id, user_id, name, color, simulated, reason
                                 FROM room_visits
                                 WHERE room_id = $1 AND left_at IS NOT NULL AND left_at <= $2
                                     AND (left_at < $2 OR $3 > 1 OR ($3 = 1 AND client_id < $4))
                                 ORDER BY left_at DESC, client_id DESC LIMIT +$5
                             ) AS went
                         ) AS visits
                         ORDER BY moment DESC, gone DESC, client_id DESC LIMIT +$5",
                    )
                    .bind(room.as_str())
                    .bind(at)
                    .bind(gone)
                    .bind(client)
                    .bind(one_more(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(VisitRow::event).collect::<sqlx::Result<Vec<_>>>()
                };
                let events = bounded(listed).await.map_err(|e| failed("list visits", e))?;
                Ok(page(events, limit))
            }

            async fn open_visits(
                &self,
                before: chrono::DateTime<chrono::Utc>,
                after: Option<&crate::ports::VisitKey>,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::ports::VisitKey>> {
                use crate::adapters::queries::{micros, parse};

                let (room, client, began) = match after {
                    Some((room, client, began)) => (room.as_str(), client.as_str(), micros(*began)),
                    None => ("", "", chrono::DateTime::UNIX_EPOCH),
                };
                let limit = i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX);
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<(String, String, chrono::DateTime<chrono::Utc>)> = rows(
                        "SELECT room_id, client_id, joined_at FROM room_visits
                         WHERE left_at IS NULL AND (room_id, client_id, joined_at) > ($1, $2, $3) AND joined_at < $4
                         ORDER BY room_id, client_id, joined_at LIMIT +$5",
                    )
                    .bind(room)
                    .bind(client)
                    .bind(began)
                    .bind(micros(before))
                    .bind(limit)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter()
                        .map(|(room, client, began)| Ok((parse(&room)?, parse(&client)?, began)))
                        .collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list open visits", e))
            }
        }
    };
}
pub(crate) use visit_records;
