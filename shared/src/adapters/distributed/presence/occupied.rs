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
        let mut asking: Vec<(u16, Option<String>)> = (0..PARTITIONS)
            .map(|partition| (partition, after.map(RoomId::to_string)))
            .collect();
        while !asking.is_empty() {
            let answers: Vec<(u16, Vec<String>)> = stream::iter(asking)
                .map(|(partition, after)| async move {
                    let names = self.of_partition(partition, after, share).await?;
                    Ok::<_, PortError>((partition, names))
                })
                .buffer_unordered(WIDTH)
                .try_collect()
                .await?;
            let full: Vec<(u16, String)> = answers
                .iter()
                .filter(|(_, names)| names.len() == share)
                .filter_map(|(partition, names)| Some((*partition, names.last()?.clone())))
                .collect();
            first.extend(
                answers
                    .iter()
                    .flat_map(|(_, names)| names)
                    .filter_map(|name| {
                        // One malformed name must not hide every other room.
                        name.parse()
                            .inspect_err(|error| {
                                tracing::error!(name, %error, "malformed name of an occupied room");
                            })
                            .ok()
                    }),
            );
            let bound = first.iter().nth(limit.saturating_sub(1)).cloned();
            asking = full
                .into_iter()
                .filter(|(_, last)| bound.as_ref().is_none_or(|b| last.as_str() < b.as_str()))
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
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<String>> {
        let from = after.map_or_else(|| "-".to_owned(), |room| format!("({room}"));
        let count = i64::try_from(limit).unwrap_or(i64::MAX);
        self.redis
            .pool
            .zrangebylex(
                keys::occupied(&self.redis.namespace, partition),
                from,
                "+",
                Some((0, count)),
            )
            .await
            .map_err(|e| port_error(DOING, e))
    }
}
