//! A page of the occupied rooms of all partitions, in the order of their ids.

use std::collections::BTreeSet;

use fred::prelude::*;
use futures::{StreamExt, TryStreamExt, stream};

use super::super::keys::{self, RoomKeys};
use super::super::redis::port_error;
use super::RedisPresence;
use crate::domain::ids::{PARTITIONS, RoomId};
use crate::ports::{PortError, Result, RoomOccupancy};

const DOING: &str = "list occupied rooms";
/// Partitions and rooms asked for at a time.
const WIDTH: usize = 128;
/// Rooms that a partition is asked for beyond its even share.
const EXTRA: usize = 4;

impl RedisPresence {
    pub(super) async fn occupied_page(
        &self,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomOccupancy>> {
        let mut page = Vec::new();
        let mut after = after.cloned();
        // A room may empty between the two looks; the page is filled up behind it, because a short page is the last.
        while page.len() < limit {
            let rooms = self.rooms_after(after.as_ref(), limit - page.len()).await?;
            let Some(last) = rooms.last() else {
                break;
            };
            after = Some(last.clone());
            let counted: Vec<RoomOccupancy> = stream::iter(rooms)
                .map(|room| self.count(room))
                .buffered(WIDTH)
                .try_collect()
                .await?;
            page.extend(counted.into_iter().filter(|room| room.members > 0));
        }
        Ok(page)
    }

    async fn count(&self, room: RoomId) -> Result<RoomOccupancy> {
        let key = RoomKeys::new(&self.redis.namespace, &room).members();
        let members = self
            .redis
            .pool
            .hlen(key)
            .await
            .map_err(|e| port_error(DOING, e))?;
        Ok(RoomOccupancy { room, members })
    }

    /// The first `limit` rooms after `after`. Every partition is asked for its even share and a little; one that gave
    /// all it was asked for, and whose last would still be on the page, is asked for more.
    async fn rooms_after(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        let share = limit / usize::from(PARTITIONS) + EXTRA;
        let mut first: BTreeSet<RoomId> = BTreeSet::new();
        let mut asking: Vec<(u16, Option<RoomId>)> = (0..PARTITIONS)
            .map(|partition| (partition, after.cloned()))
            .collect();
        while !asking.is_empty() {
            let answers: Vec<(u16, Vec<RoomId>)> = stream::iter(asking)
                .map(|(partition, after)| async move {
                    let rooms = self.of_partition(partition, after.as_ref(), share).await?;
                    Ok::<_, PortError>((partition, rooms))
                })
                .buffer_unordered(WIDTH)
                .try_collect()
                .await?;
            let full: Vec<(u16, RoomId)> = answers
                .iter()
                .filter(|(_, rooms)| rooms.len() == share)
                .filter_map(|(partition, rooms)| Some((*partition, rooms.last()?.clone())))
                .collect();
            first.extend(answers.into_iter().flat_map(|(_, rooms)| rooms));
            let bound = first.iter().nth(limit.saturating_sub(1)).cloned();
            asking = full
                .into_iter()
                .filter(|(_, last)| bound.as_ref().is_none_or(|bound| last < bound))
                .map(|(partition, last)| (partition, Some(last)))
                .collect();
            while first.len() > limit {
                first.pop_last();
            }
        }
        Ok(first.into_iter().collect())
    }

    async fn of_partition(
        &self,
        partition: u16,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        let from = after.map_or_else(|| "-".to_owned(), |room| format!("({room}"));
        let count = i64::try_from(limit).unwrap_or(i64::MAX);
        let names: Vec<String> = self
            .redis
            .pool
            .zrangebylex(
                keys::occupied(&self.redis.namespace, partition),
                from,
                "+",
                Some((0, count)),
            )
            .await
            .map_err(|e| port_error(DOING, e))?;
        names
            .into_iter()
            .map(|name| {
                name.parse().map_err(|e| {
                    PortError::fatal(DOING, format!("an occupied room is called {name:?}: {e}"))
                })
            })
            .collect()
    }
}
