//! People as others see them: kept in this process, behind that in the vault for all gateways, and forgotten everywhere
//! the moment they change.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atelier_shared::domain::entry::{Author, Entry};
use atelier_shared::domain::ids::UserId;
use atelier_shared::domain::message::{Message, Reactor};
use atelier_shared::domain::user::{DELETED_NAME, User};
use atelier_shared::ports::{Changed, PAGE_MAX, PortError, Records, Vault};
use moka::sync::Cache;
use parking_lot::RwLock;
use tokio::sync::mpsc;

/// People kept; beyond it those least asked for are forgotten.
const PROFILES_MAX: u64 = 50_000;
/// How long somebody is believed whose change this gateway was not told of (a message lost over a reconnect).
const BELIEVED: Duration = Duration::from_secs(10);

/// What is kept for the other gateways is kept no longer, whatever happens.
const SHARED_FOR: Duration = Duration::from_secs(5 * 60);
/// What was read from the records longer ago is not shared any more: the vault remembers changes for ten minutes.
const SHARED_WITHIN: Duration = Duration::from_secs(10);
/// A change that can't be told now is told again, for as long as anybody may believe the old.
const TOLD_AGAIN: Duration = Duration::from_secs(1);
const TELLINGS: u32 = 600;

/// A cache in front of [`Records`]; cheap to clone.
#[derive(Clone)]
pub struct Profiles(Arc<Inner>);

struct Inner {
    records: Arc<dyn Records>,
    vault: Arc<dyn Vault>,
    /// `None`: nobody is stored under this id.
    people: Cache<UserId, Option<Arc<User>>>,
    deleted: Cache<UserId, bool>,
    /// Counts changes: what was read before one must not be kept after it.
    changes: AtomicU64,
    /// Held for writing while something is forgotten, for reading while something is kept.
    keeping: RwLock<()>,
}

impl Profiles {
    pub fn new(records: Arc<dyn Records>, vault: Arc<dyn Vault>) -> Self {
        Self(Arc::new(Inner {
            records,
            vault,
            people: cache(),
            deleted: cache(),
            changes: AtomicU64::new(0),
            keeping: RwLock::new(()),
        }))
    }

    /// The stored person, without what only they themselves see (their address); `None`: deleted, or never stored.
    pub async fn get(&self, id: UserId) -> Result<Option<Arc<User>>, PortError> {
        let it = &self.0;
        if let Some(known) = it.people.get(&id) {
            return Ok(known);
        }
        let before = it.changes.load(Ordering::SeqCst);
        let user = it.shared(id).await?;
        it.keep(before, || it.people.insert(id, user.clone()));
        Ok(user)
    }

    /// Tells every gateway that this person changed. Called when the change is stored.
    pub async fn changed(&self, id: UserId) -> Result<(), PortError> {
        self.0.forget(id);
        let told = self.0.vault.announce_change(id).await;
        if let Err(error) = &told {
            tracing::warn!(%error, "a change of somebody is told to the other gateways later");
            let it = self.0.clone();
            tokio::spawn(async move { it.tell_again(id).await });
        }
        told
    }

    /// Forgets whoever changes on any gateway, as long as there are announcements.
    pub async fn follow(self, mut changes: mpsc::Receiver<Changed>) {
        while let Some(changed) = changes.recv().await {
            match changed {
                Changed::Person(id) => self.0.forget(id),
                Changed::Missed => self.0.forget_all(),
            }
        }
    }

    /// Takes the names of people who deleted their accounts out of what they wrote.
    pub async fn anonymise_entries(&self, entries: &mut [Entry]) -> Result<(), PortError> {
        let authors = entries.iter_mut().map(|entry| &mut entry.record.author);
        self.anonymise(authors.collect(), Vec::new()).await
    }

    /// [`Self::anonymise_entries`] for messages, and for those who reacted to them.
    pub async fn anonymise_messages<'a>(
        &self,
        messages: impl Iterator<Item = &'a mut Message>,
    ) -> Result<(), PortError> {
        let (mut authors, mut reactors) = (Vec::new(), Vec::new());
        for message in messages {
            authors.push(&mut message.record.author);
            let under = message.reactions.iter_mut();
            reactors.extend(under.flat_map(|reactions| &mut reactions.users));
        }
        self.anonymise(authors, reactors).await
    }

    /// [`Self::anonymise_entries`] for those who reacted.
    pub async fn anonymise_reactors(&self, reactors: Vec<&mut Reactor>) -> Result<(), PortError> {
        self.anonymise(Vec::new(), reactors).await
    }

    async fn anonymise(
        &self,
        authors: Vec<&mut Author>,
        reactors: Vec<&mut Reactor>,
    ) -> Result<(), PortError> {
        let people = authors
            .iter()
            .map(|author| author.user_id)
            .chain(reactors.iter().map(|reactor| reactor.user_id));
        let deleted = self.deleted_among(people.collect()).await?;
        for author in authors {
            if deleted.contains(&author.user_id) {
                DELETED_NAME.clone_into(&mut author.name);
                author.avatar_url = None;
            }
        }
        for reactor in reactors {
            if deleted.contains(&reactor.user_id) {
                DELETED_NAME.clone_into(&mut reactor.name);
            }
        }
        Ok(())
    }

    /// Those of `people` who deleted their accounts.
    pub async fn deleted_among(
        &self,
        people: BTreeSet<UserId>,
    ) -> Result<HashSet<UserId>, PortError> {
        let it = &self.0;
        let mut deleted = HashSet::new();
        let mut unknown = Vec::new();
        for id in people {
            match it.deleted.get(&id) {
                Some(true) => drop(deleted.insert(id)),
                Some(false) => {}
                None => unknown.push(id),
            }
        }
        let before = it.changes.load(Ordering::SeqCst);
        for chunk in unknown.chunks(PAGE_MAX) {
            let gone: HashSet<UserId> =
                it.records.deleted_users(chunk).await?.into_iter().collect();
            it.keep(before, || {
                for id in chunk {
                    it.deleted.insert(*id, gone.contains(id));
                }
            });
            deleted.extend(gone);
        }
        Ok(deleted)
    }
}

impl Inner {
    /// From the vault, else from the records, and then for the others, too.
    async fn shared(&self, id: UserId) -> Result<Option<Arc<User>>, PortError> {
        let began = Instant::now();
        let cached = match self.vault.cached_profile(id).await {
            Ok(cached) => Some(cached),
            Err(error) => {
                tracing::debug!(%error, "a profile is read from the records");
                None
            }
        };
        if let Some(profile) = cached.as_ref().and_then(|cached| cached.profile.as_deref())
            && let Ok(user) = serde_json::from_str::<Option<User>>(profile)
        {
            return Ok(user.map(Arc::new));
        }
        let user = self.records.user(id).await?.map(|user| User {
            email: None,
            ..user
        });
        if let Some(cached) = cached
            && began.elapsed() < SHARED_WITHIN
            && let Ok(profile) = serde_json::to_string(&user)
        {
            let generation = cached.generation;
            let kept = self
                .vault
                .cache_profile(id, &profile, generation, SHARED_FOR)
                .await;
            if let Err(error) = kept {
                tracing::debug!(%error, "a profile was not shared");
            }
        }
        Ok(user.map(Arc::new))
    }

    async fn tell_again(&self, id: UserId) {
        for _ in 0..TELLINGS {
            tokio::time::sleep(TOLD_AGAIN).await;
            if self.vault.announce_change(id).await.is_ok() {
                return;
            }
        }
    }

    fn keep(&self, before: u64, keep: impl FnOnce()) {
        let _keeping = self.keeping.read();
        if self.changes.load(Ordering::SeqCst) == before {
            keep();
        }
    }

    fn forget_all(&self) {
        let _forgetting = self.keeping.write();
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.people.invalidate_all();
        self.deleted.invalidate_all();
    }

    fn forget(&self, id: UserId) {
        let _forgetting = self.keeping.write();
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.people.invalidate(&id);
        self.deleted.invalidate(&id);
    }
}

fn cache<V: Clone + Send + Sync + 'static>() -> Cache<UserId, V> {
    Cache::builder()
        .max_capacity(PROFILES_MAX)
        .time_to_live(BELIEVED)
        .build()
}
