//! Relational data: insights and the votes for them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Page, Result};
use crate::domain::ids::{InsightId, PlaceId, UserId};
use crate::domain::insight::{Insight, Link};

/// An insight as one reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsightSeen {
    pub insight: Insight,
    /// `None`: the author's row is gone.
    pub author_name: Option<String>,
    pub votes: u64,
    /// Is the reader's vote among them?
    pub voted: bool,
}

/// Which insights a list shows, of those that are the reader's own or of the reader's teams.
#[derive(Debug, Clone, Default)]
pub struct InsightFilter {
    /// In lower case; empty: all.
    pub search: String,
    /// In lower case; empty: all.
    pub tag: String,
    pub team: Option<PlaceId>,
}

/// What is to change of an insight; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InsightPatch {
    pub title: Option<String>,
    pub body: Option<String>,
    pub tags: Option<Vec<String>>,
    pub links: Option<Vec<Link>>,
}

/// Promises: a person's vote counts once.
#[async_trait]
pub trait InsightRecords: Send + Sync {
    /// False: its team is gone.
    async fn create_insight(&self, insight: &Insight) -> Result<bool>;

    /// Whether or not the reader may see it.
    async fn insight(&self, id: InsightId, reader: UserId) -> Result<Option<InsightSeen>>;

    /// Newest first by id, before `before`.
    async fn list_insights(
        &self,
        reader: UserId,
        filter: &InsightFilter,
        before: Option<InsightId>,
        limit: usize,
    ) -> Result<Page<InsightSeen>>;

    /// Changes what the patch names, and nothing else but `updated_at`, whatever else changes at the same time. False: no
    /// such insight.
    async fn patch_insight(
        &self,
        id: InsightId,
        patch: &InsightPatch,
        at: DateTime<Utc>,
    ) -> Result<bool>;

    /// False: no such insight.
    async fn delete_insight(&self, id: InsightId) -> Result<bool>;

    /// Votes for it, or takes the vote back. False: no such insight (also where it goes at the same moment).
    async fn vote(&self, id: InsightId, user: UserId, votes: bool) -> Result<bool>;
}
