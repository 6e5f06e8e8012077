//! A group of writes, and what it comes to: gathered in memory, and handed to SQLite in one trip. Only what makes or removes
//! a room's row goes there by itself, inside of the group's transaction.

use std::collections::{HashMap, HashSet};

use sqlx::SqliteConnection;

use super::store::{self, Batch, RoomKey};
use super::writer::{Answer, AppendAnswer, Command, KnownRefs, Reply, Write, Writing, copy};
use crate::domain::entry::Entry;
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::signal::Signal;
use crate::ports::{Appended, Delivery, Fate, LogHead, Refusal, Result};

/// How long refs are remembered.
const REF_MEMORY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The heads of rooms as they stand in the file; nobody else writes there. Rooms without a log are not in it.
pub type Heads = HashMap<RoomId, (RoomKey, LogHead)>;

/// A transaction under way.
pub struct Group<'a> {
    room_tail_max: u64,
    heads: &'a mut Heads,
    changed: HashSet<RoomId>,
    known: KnownRefs,
    batch: Batch,
    /// The transaction is open.
    begun: bool,
    pub replies: Vec<Reply>,
    pub deliveries: Vec<(RoomId, Delivery)>,
    /// The latest time that a writer told.
    pub now_ms: i64,
}

impl<'a> Group<'a> {
    pub fn new(room_tail_max: u64, heads: &'a mut Heads, writes: usize) -> Self {
        Self {
            room_tail_max,
            heads,
            changed: HashSet::new(),
            known: KnownRefs::new(),
            batch: Batch::default(),
            begun: false,
            replies: Vec::with_capacity(writes),
            deliveries: Vec::new(),
            now_ms: 0,
        }
    }

    /// Reads what the writes are checked against: heads that are not remembered, and the refs that they bring.
    pub async fn prepare(
        &mut self,
        connection: &mut SqliteConnection,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let mut at = 0;
        while let Some(write) = writes.get(at) {
            if !self.heads.contains_key(&write.room) {
                match store::head(connection, &write.room).await {
                    Ok(Some(head)) => drop(self.heads.insert(write.room.clone(), head)),
                    Ok(None) => {}
                    // A room whose head can't be read must not take the others' writes along.
                    Err(error) if error.fate == Fate::Final => {
                        let write = writes.remove(at);
                        self.replies.push(write.command.refuse(error));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            at += 1;
        }
        let mut asked: Vec<(RoomKey, &str)> = Vec::new();
        for write in writes.iter() {
            if let Command::Append { records, .. } = &write.command
                && let Some((key, _)) = self.heads.get(&write.room)
            {
                let refs = records.iter().filter_map(|w| w.reference.as_deref());
                asked.extend(refs.map(|name| (*key, name)));
            }
        }
        if !asked.is_empty() {
            self.known = store::known_refs(connection, &asked).await?;
        }
        Ok(())
    }

    pub async fn apply(&mut self, connection: &mut SqliteConnection, write: Write) -> Result<()> {
        let Write { room, command } = write;
        match command {
            Command::Seed {
                epoch,
                seq,
                role_version,
                now_ms,
                answer,
            } => {
                let head = self
                    .seed(connection, &room, epoch, seq, role_version, now_ms)
                    .await;
                self.reply(answer, head)
            }
            Command::Append {
                epoch,
                seen,
                role_version,
                now_ms,
                records,
                answer,
            } => {
                let appended = match self.check(&room, epoch, seen, role_version) {
                    Ok((key, head)) => self.append(&room, key, head, role_version, now_ms, records),
                    Err(refusal) => Err(refusal),
                };
                self.replies.push(Box::new(move |failure| {
                    // The caller may have given up.
                    let _gone = answer.send(failure.map_or(appended, |error| Err(error.into())));
                }));
                Ok(())
            }
            Command::SetRoleVersion {
                role_version,
                answer,
            } => {
                if let Some((_, head)) = self.heads.get_mut(&room)
                    && head.role_version < role_version
                {
                    head.role_version = role_version;
                    self.changed.insert(room);
                }
                self.reply(answer, Ok(()))
            }
            Command::Confirm {
                epoch,
                seq,
                trim_to,
                answer,
            } => {
                let clean = self.confirm(connection, &room, epoch, seq, trim_to).await;
                self.reply(answer, clean)
            }
            Command::Unload { epoch, seq, answer } => {
                let unloaded = self.unload(connection, &room, epoch, seq).await;
                self.reply(answer, unloaded)
            }
        }
    }

    /// Keeps the answer until the commit. An error ends the group.
    fn reply<T: Send + 'static>(
        &mut self,
        answer: Answer<Result<T>>,
        result: Result<T>,
    ) -> Result<()> {
        let failure = result.as_ref().err().map(copy);
        self.replies.push(Box::new(move |failure| {
            // The caller may have given up.
            let _gone = answer.send(failure.map_or(result, Err));
        }));
        failure.map_or(Ok(()), Err)
    }

    /// Opens the transaction, unless it is, for a statement of its own; what was gathered before goes first.
    pub async fn begin(&mut self, connection: &mut SqliteConnection) -> Result<()> {
        let begin = !std::mem::replace(&mut self.begun, true);
        self.gather_heads();
        std::mem::take(&mut self.batch)
            .write(connection, begin, false)
            .await
    }

    pub async fn commit(&mut self, connection: &mut SqliteConnection) -> Result<()> {
        self.gather_heads();
        if self.batch.is_empty() && !self.begun {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        batch.write(connection, !self.begun, true).await
    }

    fn gather_heads(&mut self) {
        let changed = self.changed.drain();
        let heads = changed.filter_map(|room| self.heads.get(&room).copied());
        self.batch.heads.extend(heads);
    }

    fn change(&mut self, room: &RoomId, key: RoomKey, head: LogHead) {
        self.heads.insert(room.clone(), (key, head));
        self.changed.insert(room.clone());
    }

    async fn remove(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        key: RoomKey,
    ) -> Result<()> {
        self.begin(connection).await?;
        store::remove(connection, key).await?;
        self.heads.remove(room);
        // Its row is gone with its refs, and another room's may get its key.
        self.known.retain(|(of, _), _| *of != key);
        Ok(())
    }

    async fn seed(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<LogHead> {
        let present = self.heads.get(room).copied();
        let role_version = present
            .map_or(0, |(_, head)| head.role_version)
            .max(role_version);
        if let Some((key, mut head)) = present.filter(|(_, head)| head.epoch >= epoch) {
            head.role_version = role_version;
            self.change(room, key, head);
            return Ok(head);
        }
        if let Some((key, _)) = present {
            self.remove(connection, room, key).await?;
            let raised = Delivery::Signal(Signal::EpochRaised { epoch });
            self.deliveries.push((room.clone(), raised));
        }
        let head = LogHead {
            epoch,
            seq,
            archived: seq,
            trimmed: seq,
            role_version,
            seeded_at_ms: now_ms,
            seeded_seq: seq,
        };
        // At once, because entries need the row's key.
        self.begin(connection).await?;
        let key = store::insert_head(connection, room, &head).await?;
        self.heads.insert(room.clone(), (key, head));
        Ok(head)
    }

    fn check(
        &mut self,
        room: &RoomId,
        epoch: Epoch,
        seen: Seq,
        role_version: u64,
    ) -> Result<(RoomKey, LogHead), Refusal> {
        let Some((key, head)) = self.heads.get(room).copied() else {
            return Err(Refusal::NotSeeded);
        };
        if head.epoch != epoch {
            return Err(Refusal::Epoch(head));
        }
        if head.seq < seen {
            return Err(Refusal::Behind(head));
        }
        if role_version < head.role_version {
            return Err(Refusal::RoleVersion(head.role_version));
        }
        Ok((key, head))
    }

    fn append(
        &mut self,
        room: &RoomId,
        key: RoomKey,
        mut head: LogHead,
        role_version: u64,
        now_ms: i64,
        records: Vec<Writing>,
    ) -> AppendAnswer {
        self.now_ms = self.now_ms.max(now_ms);
        let expires_at_ms = now_ms + REF_MEMORY_MS;
        let mut answers = Vec::with_capacity(records.len());
        let (mut entries, mut rows) = (Vec::with_capacity(records.len()), Vec::new());
        // Of this append: they count for the group only if it is not refused.
        let mut new: HashMap<String, Seq> = HashMap::new();
        let mut last = head.seq;
        for writing in records {
            let name = writing.reference;
            if let Some(name) = &name {
                let of_file = || {
                    let (seq, until_ms) = self.known.get(&(key, name.clone()))?;
                    (*until_ms > now_ms).then_some(*seq)
                };
                if let Some(seq) = new.get(name).copied().or_else(of_file) {
                    answers.push(Appended::Duplicate(seq));
                    continue;
                }
            }
            last = last.next();
            answers.push(Appended::New(last));
            new.extend(name.map(|name| (name, last)));
            rows.push((key, last, writing.json));
            entries.push(Entry {
                seq: last,
                record: writing.record,
            });
        }
        if entries.is_empty() {
            return Ok((answers, false));
        }
        if last.0 - head.archived.0 > self.room_tail_max {
            return Err(Refusal::ArchiveBehind);
        }
        self.batch.entries.append(&mut rows);
        for (name, seq) in new {
            let row = (key, name.clone(), seq, expires_at_ms);
            self.batch.refs.push(row);
            self.known.insert((key, name), (seq, expires_at_ms));
        }
        let newly_dirty = head.seq == head.archived;
        head.seq = last;
        // A writer that knows a newer role version than the log proves that there is one.
        head.role_version = role_version;
        self.change(room, key, head);
        let epoch = head.epoch;
        self.deliveries
            .push((room.clone(), Delivery::Entries { epoch, entries }));
        Ok((answers, newly_dirty))
    }

    async fn confirm(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<bool> {
        let present = self.heads.get(room).copied();
        let Some((key, before)) = present.filter(|(_, head)| head.epoch == epoch) else {
            return Ok(true);
        };
        let mut head = before;
        // An archive that is ahead of this log means that the log was rolled back; its reader finds out.
        let confirmed = seq.min(head.seq);
        if confirmed > head.archived {
            head.archived = confirmed;
            let archived = Delivery::Signal(Signal::Archived { epoch, seq });
            self.deliveries.push((room.clone(), archived));
        }
        let trim_to = trim_to.min(head.archived);
        if trim_to > head.trimmed {
            self.begin(connection).await?;
            store::trim(connection, key, trim_to).await?;
            head.trimmed = trim_to;
        }
        if head != before {
            self.change(room, key, head);
        }
        Ok(head.archived == head.seq)
    }

    async fn unload(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
    ) -> Result<bool> {
        let present = self.heads.get(room).copied();
        let Some((key, _)) = present
            .filter(|(_, head)| head.epoch == epoch && head.seq == seq && head.archived == seq)
        else {
            return Ok(false);
        };
        self.remove(connection, room, key).await?;
        Ok(true)
    }
}
