//! Visits that nobody ended: whoever should have was gone before it could.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::Backends;
use crate::domain::ids::{ClientId, RoomId};
use crate::domain::visit::{Departure, Left, VisitBatch};
use crate::ports::{PAGE_MAX, Result, VisitKey};

/// Ends, at `before`, the visits begun before it whose clients are not in their rooms; says how many there are (`dry_run`:
/// and no more). The caller knows that presence has everybody.
///
/// # Errors
/// The stores'. Repeat it then.
pub async fn end_lost(b: &Backends, before: DateTime<Utc>, dry_run: bool) -> Result<u64> {
    let mut lost = 0;
    let mut after: Option<VisitKey> = None;
    let mut here: Option<(RoomId, HashSet<ClientId>)> = None;
    loop {
        let open = b
            .records
            .open_visits(before, after.as_ref(), PAGE_MAX)
            .await?;
        let last = open.len() < PAGE_MAX;
        after = open.last().cloned();
        let mut ended = VisitBatch::default();
        for (room, client_id, _) in open {
            // By room: each is asked about once, or once a page.
            let people = match here.take().filter(|(of, _)| *of == room) {
                Some((_, people)) => people,
                None => clients(b, &room).await?,
            };
            if !people.contains(&client_id) {
                lost += 1;
                let left = Left {
                    at: before,
                    reason: Some("lost".to_owned()),
                };
                ended.end(Departure {
                    room: room.clone(),
                    client_id,
                    left,
                });
            }
            here = Some((room, people));
        }
        if !dry_run {
            b.records.note_visits(&ended).await?;
        }
        if last {
            return Ok(lost);
        }
    }
}

async fn clients(b: &Backends, room: &RoomId) -> Result<HashSet<ClientId>> {
    let members = b.presence.members(room).await?.into_iter();
    Ok(members.map(|member| member.client_id).collect())
}
