//! People as others see them: kept in this process, behind that in the vault for all gateways, and forgotten everywhere
//! the moment they change.

use std::borrow::Cow;
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

use super::gone::Gone;

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
/// Changes that wait to be looked into; one more, and the rooms look all of their people up.
const UNSURE_MAX: usize = 4_096;

/// A cache in front of [`Records`]; cheap to clone.
#[derive(Clone)]
pub struct Profiles(Arc<Inner>);

struct Inner {
    records: Arc<dyn Records>,
    vault: Arc<dyn Vault>,
    /// `None`: nobody is stored under this id.
    people: Cache<UserId, Option<Arc<User>>>,
    deleted: Cache<UserId, bool>,
    /// What is known of the deleted where nobody can wait for an answer.
    gone: Gone,
    /// Raised when somebody may have gone without this gateway having heard of it.
    unheard: AtomicU64,
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
            gone: Gone::default(),
            unheard: AtomicU64::new(1),
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

    /// [`Self::changed`] for somebody who deleted their account.
    pub async fn deleted(&self, id: UserId) -> Result<(), PortError> {
        self.0.gone.insert(id);
        self.changed(id).await
    }

    /// Forgets whoever changes on any gateway, as long as there are announcements.
    pub async fn follow(self, mut changes: mpsc::Receiver<Changed>) {
        let (unsure, asked) = mpsc::channel(UNSURE_MAX);
        let forget = async {
            while let Some(changed) = changes.recv().await {
                match changed {
                    Changed::Person(id) => {
                        self.0.forget(id);
                        if unsure.try_send(id).is_err() {
                            self.0.unheard.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    Changed::Missed => {
                        self.0.forget_all();
                        self.0.unheard.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            drop(unsure);
        };
        tokio::join!(forget, self.look(asked));
    }

    /// Who has changed may be gone: the records know.
    async fn look(&self, mut unsure: mpsc::Receiver<UserId>) {
        let mut people = Vec::new();
        while unsure.recv_many(&mut people, PAGE_MAX).await > 0 {
            let asked: BTreeSet<UserId> = people.drain(..).collect();
            while let Err(error) = self.deleted_among(asked.clone()).await {
                tracing::debug!(%error, "whether people who changed are gone is asked again");
                tokio::time::sleep(TOLD_AGAIN).await;
            }
        }
    }

    /// Has [`Self::nameless_reactors`] know those of `people` who are gone. False: nobody can say now.
    pub async fn look_up(&self, people: BTreeSet<UserId>) -> bool {
        let looked = self.deleted_among(people).await;
        if let Err(error) = &looked {
            tracing::debug!(%error, "whether people who reacted are gone is asked again");
        }
        looked.is_ok()
    }

    /// Changes whenever somebody may have gone whom [`Self::nameless`] does not know of: whoever tells of people from
    /// before that has them [looked up](Self::look_up) once more. Never 0.
    pub fn unheard(&self) -> u64 {
        self.0.unheard.load(Ordering::SeqCst)
    }

    /// An entry as it may be told now, without asking anybody: its author's name only as long as they are there.
    pub fn nameless<'a>(&self, entry: &'a Entry) -> Cow<'a, Entry> {
        if !self.0.gone.contains(entry.record.author.user_id) {
            return Cow::Borrowed(entry);
        }
        let mut entry = entry.clone();
        strike(&mut entry.record.author);
        Cow::Owned(entry)
    }

    /// [`Self::nameless`] for those who reacted.
    pub fn nameless_reactors<'a>(&self, reactors: &'a [Reactor]) -> Cow<'a, [Reactor]> {
        let gone = |reactor: &Reactor| self.0.gone.contains(reactor.user_id);
        if !self.0.gone.has_any() || !reactors.iter().any(gone) {
            return Cow::Borrowed(reactors);
        }
        let struck = reactors.iter().map(|reactor| {
            let mut reactor = reactor.clone();
            if gone(&reactor) {
                DELETED_NAME.clone_into(&mut reactor.name);
            }
            reactor
        });
        Cow::Owned(struck.collect())
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
                strike(author);
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
            for id in &gone {
                it.gone.insert(*id);
            }
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

fn strike(author: &mut Author) {
    DELETED_NAME.clone_into(&mut author.name);
    author.avatar_url = None;
}

fn cache<V: Clone + Send + Sync + 'static>() -> Cache<UserId, V> {
    Cache::builder()
        .max_capacity(PROFILES_MAX)
        .time_to_live(BELIEVED)
        .build()
}
