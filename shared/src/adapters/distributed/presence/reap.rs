//! Finds the members of pods whose lease lapsed and removes each by compare-and-delete.

use std::time::Duration;

use fred::prelude::*;
use futures::{StreamExt, TryStreamExt, stream};

use super::super::keys;
use super::super::redis::port_error;
use super::{FORGET_AFTER, RedisPresence};
use crate::domain::ids::{ClientId, PARTITIONS, PodId, RoomId};
use crate::domain::presence::Member;
use crate::ports::{Presence, Result};

/// Lapsed pods that one call looks after.
const PODS_AT_ONCE: usize = 4;
/// Partitions searched, and members removed, at a time.
const WIDTH: usize = 64;

impl RedisPresence {
    pub(super) async fn reap_lapsed(
        &self,
        by: PodId,
        limit: usize,
    ) -> Result<Vec<(RoomId, Member)>> {
        let mut reaped = Vec::new();
        for (pod, lapsed_for) in self.claim_lapsed(by).await? {
            let before = reaped.len();
            let result = self.reap_pod(&pod, limit, &mut reaped).await;
            if reaped.len() >= limit || result.is_err() {
                self.release_claim(&pod).await;
            } else if reaped.len() == before && lapsed_for >= FORGET_AFTER {
                self.forget(&pod).await?;
            }
            // Who was removed must be told of, whatever failed after it: the next call meets the failure again.
            if let Err(error) = result {
                if reaped.is_empty() {
                    return Err(error);
                }
                tracing::warn!(pod, %error, "members of a dead pod remain for the next beat");
                break;
            }
            if reaped.len() >= limit {
                break;
            }
        }
        Ok(reaped)
    }

    /// Members that could be reaped, left where they are. The claims end at once: whoever reaps is not held up.
    pub(super) async fn list_lapsed(
        &self,
        by: PodId,
        limit: usize,
    ) -> Result<Vec<(RoomId, Member)>> {
        let mut found = Vec::new();
        for (pod, _) in self.claim_lapsed(by).await? {
            let listed = self.list_pod(&pod, limit, &mut found).await;
            self.release_claim(&pod).await;
            listed?;
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// Adds members of this pod, up to `limit` in all.
    pub(super) async fn list_pod(
        &self,
        pod: &str,
        limit: usize,
        found: &mut Vec<(RoomId, Member)>,
    ) -> Result<()> {
        let mut pages = stream::iter(0..PARTITIONS)
            .map(|partition| self.places_of(pod, partition, limit))
            .buffer_unordered(WIDTH);
        let mut rooms = std::collections::BTreeSet::new();
        while let Some(places) = pages.try_next().await? {
            let room = |place: &String| place.split(' ').nth(1)?.parse::<RoomId>().ok();
            rooms.extend(places.iter().filter_map(room));
        }
        for room in rooms {
            if found.len() >= limit {
                break;
            }
            let members = self.members(&room).await?.into_iter();
            let dead = members.filter(|member| member.pod.to_string() == pod);
            found.extend(dead.map(|member| (room.clone(), member)));
        }
        found.truncate(limit);
        Ok(())
    }

    /// Lapsed pods, claimed for `by`, and for how long they lapsed.
    async fn claim_lapsed(&self, by: PodId) -> Result<Vec<(String, Duration)>> {
        let args = vec![by.to_string().into(), PODS_AT_ONCE.to_string().into()];
        let reply = self
            .scripts
            .lapsed
            .call(&self.redis, self.lease_keys(), args)
            .await
            .map_err(|e| port_error("find lapsed pods", e))?;
        let mut values = reply.into_array().into_iter();
        let mut lapsed = Vec::new();
        while let (Some(pod), Some(ms)) = (values.next(), values.next()) {
            let ms = ms.as_u64().unwrap_or_default();
            lapsed.extend(
                pod.into_string()
                    .map(|pod| (pod, Duration::from_millis(ms))),
            );
        }
        Ok(lapsed)
    }

    /// Up to `limit` in all. A claim that could not be released ends by itself.
    async fn reap_pod(
        &self,
        pod: &str,
        limit: usize,
        reaped: &mut Vec<(RoomId, Member)>,
    ) -> Result<()> {
        let mut found = stream::iter(0..PARTITIONS)
            .map(|partition| self.places_of(pod, partition, limit))
            .buffer_unordered(WIDTH);
        while reaped.len() < limit
            && let Some(places) = found.try_next().await?
        {
            let places = places.into_iter().take(limit - reaped.len());
            let mut removed = stream::iter(places)
                .map(|place| async move { self.remove_place(&place).await })
                .buffer_unordered(WIDTH);
            let mut failure = None;
            while let Some(result) = removed.next().await {
                match result {
                    Ok(member) => reaped.extend(member),
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn places_of(&self, pod: &str, partition: u16, limit: usize) -> Result<Vec<String>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.redis
            .pool
            .zrangebylex(
                keys::places(&self.redis.namespace, partition),
                // Everything that begins with the pod and a space; '!' comes next after the space.
                format!("[{pod} "),
                format!("({pod}!"),
                Some((0, limit)),
            )
            .await
            .map_err(|e| port_error("find members of a dead pod", e))
    }

    /// `None`: somebody else was quicker, or the place is malformed (which must not keep the others alive).
    async fn remove_place(&self, place: &str) -> Result<Option<(RoomId, Member)>> {
        let mut words = place.split(' ').skip(1);
        let (Some(room), Some(client_id), Some(connection)) = (
            words.next().and_then(|word| word.parse::<RoomId>().ok()),
            words.next().and_then(|word| word.parse::<ClientId>().ok()),
            words.next(),
        ) else {
            tracing::error!(place, "malformed place of a member");
            return Ok(None);
        };
        match self.remove(&room, &client_id, connection).await {
            Ok(member) => Ok(member.map(|member| (room, member))),
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => {
                tracing::error!(%room, %error, "a member of a dead pod can't be read");
                Ok(None)
            }
        }
    }

    async fn release_claim(&self, pod: &str) {
        let claims = self.lease_keys().remove(2);
        if let Err(error) = self.redis.pool.zrem::<(), _, _>(claims, pod).await {
            tracing::debug!(%error, "could not release the claim on a dead pod");
        }
    }

    async fn forget(&self, pod: &str) -> Result<()> {
        let args = vec![pod.into(), FORGET_AFTER.as_millis().to_string().into()];
        self.scripts
            .forget
            .call(&self.redis, self.lease_keys(), args)
            .await
            .map_err(|e| port_error("forget a dead pod", e))?;
        Ok(())
    }
}
