//! The refs that are remembered for a day: the latest in memory, older ones in files that a few bits each stand for.
//!
//! Of a ref only a hash is kept, of 128 bits of SHA-256: nobody finds two of a kind. A hash belongs to one life of one room
//! (its [`RoomKey`]), so that a room that is removed or seeded anew takes its refs along without their being looked for.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::frame::RoomKey;
use super::run::Run;
use crate::domain::entry::RefKey;
use crate::domain::ids::{ConnectionId, Seq};

pub const REF_BYTES: usize = 16;
pub type RefHash = [u8; REF_BYTES];

/// Refs in memory, about; more become a file.
pub const RECENT_MAX: usize = 65_536;
/// How often expired refs are looked for, on the writers' clock.
const SWEEP_EVERY_MS: i64 = 60 * 1_000;

/// Where a ref's entry stands, and until when that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub seq: Seq,
    pub until_ms: i64,
}

pub type Table = HashMap<RefHash, Known>;

pub fn hash(room: RoomKey, key: &RefKey) -> RefHash {
    let RefKey {
        user_id,
        client_id,
        reference,
    } = key;
    let mut hash = Sha256::new();
    hash.update(room.to_le_bytes());
    hash.update(user_id.0.as_bytes());
    // A client id has no zero byte in it.
    hash.update(client_id.as_str().as_bytes());
    hash.update([0]);
    hash.update(reference.as_str().as_bytes());
    let mut short = [0; REF_BYTES];
    short.copy_from_slice(&hash.finalize()[..REF_BYTES]);
    short
}

/// See the module.
#[derive(Debug)]
pub struct Refs {
    folder: PathBuf,
    recent: Table,
    /// On its way into a file.
    sealing: Option<Arc<Table>>,
    /// From the oldest on.
    runs: Vec<Run>,
    next_run: u64,
    sweep_due_ms: i64,
    /// Refs that no older connection may store, until when. In memory alone: what may be on its way ends with the process.
    barred: HashMap<RefHash, (ConnectionId, i64)>,
}

impl Refs {
    /// Finds the files in `folder`. What is not a whole file of ours is left over from a crash, and removed.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let runs = Run::all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            recent: Table::new(),
            sealing: None,
            next_run: runs.last().map_or(1, |run| run.number() + 1),
            runs,
            sweep_due_ms: 0,
            barred: HashMap::new(),
        })
    }

    pub fn get(&self, hash: &RefHash, now_ms: i64) -> io::Result<Option<Seq>> {
        let sealing = self.sealing.as_deref();
        let held = self
            .recent
            .get(hash)
            .or_else(|| sealing.and_then(|table| table.get(hash)));
        if let Some(known) = held {
            return Ok((known.until_ms > now_ms).then_some(known.seq));
        }
        for run in self.runs.iter().rev() {
            if let Some(known) = run.get(hash)? {
                return Ok((known.until_ms > now_ms).then_some(known.seq));
            }
        }
        Ok(None)
    }

    pub fn insert(&mut self, hash: RefHash, known: Known) {
        self.recent.insert(hash, known);
    }

    pub fn bar(&mut self, hash: RefHash, connection: ConnectionId, until_ms: i64) {
        let (latest, until) = self.barred.entry(hash).or_insert((connection, until_ms));
        *latest = connection.max(*latest);
        *until = until_ms.max(*until);
    }

    pub fn is_barred(&self, hash: &RefHash, by: Option<ConnectionId>, now_ms: i64) -> bool {
        let barred = self.barred.get(hash);
        let barred = barred.filter(|(_, until_ms)| *until_ms > now_ms);
        barred.is_some_and(|(latest, _)| by.is_some_and(|by| by < *latest))
    }

    /// Those that are in no file.
    pub fn in_memory(&self) -> impl Iterator<Item = (&RefHash, &Known)> {
        let sealing = self.sealing.iter().flat_map(|table| table.iter());
        self.recent.iter().chain(sealing)
    }

    pub fn in_memory_count(&self) -> usize {
        self.recent.len() + self.sealing.as_ref().map_or(0, |table| table.len())
    }

    /// Some, if there are enough for a file: it is to be written (not under a lock) and handed to [`Self::sealed`].
    pub fn seal(&mut self) -> Option<Sealing> {
        if self.recent.len() < RECENT_MAX || self.sealing.is_some() {
            return None;
        }
        let table = Arc::new(std::mem::take(&mut self.recent));
        self.sealing = Some(table.clone());
        let number = self.next_run;
        self.next_run += 1;
        Some(Sealing {
            folder: self.folder.clone(),
            number,
            table,
        })
    }

    /// The file is written, or could not be: then they stay in memory, and are tried again with those that come.
    pub fn sealed(&mut self, run: io::Result<Run>) {
        let table = self.sealing.take();
        match run {
            Ok(run) => self.runs.push(run),
            Err(error) => {
                tracing::error!(%error, "refs could not be written to a file of their own");
                for (hash, known) in table.iter().flat_map(|table| table.iter()) {
                    self.recent.entry(*hash).or_insert(*known);
                }
            }
        }
    }

    /// Forgets those that no longer count, once in a while.
    pub fn sweep(&mut self, now_ms: i64) {
        if now_ms < self.sweep_due_ms {
            return;
        }
        self.sweep_due_ms = now_ms + SWEEP_EVERY_MS;
        self.recent.retain(|_, known| known.until_ms > now_ms);
        self.barred.retain(|_, (_, until_ms)| *until_ms > now_ms);
        if self.recent.capacity() > 4 * self.recent.len().max(1_024) {
            self.recent.shrink_to(2 * self.recent.len());
        }
        self.runs.retain(|run| {
            let counts = run.until_ms() > now_ms;
            if !counts {
                run.remove();
            }
            counts
        });
    }
}

/// Refs that become a file.
pub struct Sealing {
    folder: PathBuf,
    number: u64,
    table: Arc<Table>,
}

impl Sealing {
    pub fn write(&self) -> io::Result<Run> {
        Run::write(&self.folder, self.number, &self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(n: u64) -> RefHash {
        let digest = Sha256::digest(n.to_le_bytes());
        digest[..REF_BYTES].try_into().unwrap()
    }

    fn fill(refs: &mut Refs, numbers: std::ops::Range<u64>, until_ms: i64) {
        for n in numbers {
            let seq = Seq(n);
            refs.insert(numbered(n), Known { seq, until_ms });
        }
    }

    /// One in so many is looked at.
    const STEP: usize = 64;

    fn known(refs: &Refs, numbers: std::ops::Range<u64>, now_ms: i64) -> usize {
        let is_known =
            |n: &u64| refs.get(&numbered(*n), now_ms).expect("a readable run") == Some(Seq(*n));
        numbers.step_by(STEP).filter(is_known).count()
    }

    #[test]
    fn many_refs_go_into_files_and_are_found_there_until_they_expire() {
        let folder = tempfile::tempdir().unwrap();
        let many = RECENT_MAX as u64;
        let mut refs = Refs::open(folder.path()).unwrap();
        fill(&mut refs, 0..many - 1, 1_000);
        assert!(refs.seal().is_none(), "one is missing");
        fill(&mut refs, many - 1..many, 1_000);
        let sealing = refs.seal().expect("enough for a file");
        assert_eq!(
            known(&refs, 0..many, 0),
            RECENT_MAX / STEP,
            "while it is written"
        );
        fill(&mut refs, many..2 * many, 2_000);
        assert!(refs.seal().is_none(), "one at a time");
        refs.sealed(sealing.write());
        let sealing = refs.seal().expect("the next");
        refs.sealed(sealing.write());
        assert_eq!(refs.in_memory_count(), 0);
        assert_eq!(known(&refs, 0..2 * many, 0), 2 * RECENT_MAX / STEP);
        assert_eq!(known(&refs, 2 * many..3 * many, 0), 0);
        assert_eq!(
            known(&refs, 0..2 * many, 1_000),
            RECENT_MAX / STEP,
            "half are old"
        );

        let again = Refs::open(folder.path()).unwrap();
        assert_eq!(known(&again, 0..2 * many, 0), 2 * RECENT_MAX / STEP);
        refs.sweep(1_000);
        let again = Refs::open(folder.path()).unwrap();
        assert_eq!((refs.runs.len(), again.runs.len()), (1, 1));
        assert_eq!(known(&again, many..2 * many, 0), RECENT_MAX / STEP);
    }

    #[test]
    fn refs_that_could_not_be_written_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let many = RECENT_MAX as u64;
        let mut refs = Refs::open(folder.path()).unwrap();
        fill(&mut refs, 0..many, 1_000);
        let sealing = refs.seal().unwrap();
        std::fs::remove_dir(folder.path()).unwrap();
        refs.sealed(sealing.write());
        assert_eq!(known(&refs, 0..many, 0), RECENT_MAX / STEP);
        assert!(refs.seal().is_some(), "tried again");
        std::fs::create_dir(folder.path()).unwrap();
    }

    #[test]
    fn what_a_crash_left_of_a_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut refs = Refs::open(folder.path()).unwrap();
        fill(&mut refs, 0..RECENT_MAX as u64, 1_000);
        let run = refs.seal().unwrap().write().unwrap();
        let path = folder.path().join("log.refs.1");
        let bytes = std::fs::read(&path).unwrap();
        drop(run);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        std::fs::write(folder.path().join("log.refs.2"), b"").unwrap();
        std::fs::write(folder.path().join("log.db"), b"somebody else's").unwrap();
        let refs = Refs::open(folder.path()).unwrap();
        assert_eq!(refs.runs.len(), 0);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_is_swept_is_gone_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut refs = Refs::open(folder.path()).unwrap();
        fill(&mut refs, 0..10, 1_000);
        fill(&mut refs, 10..20, 2_000);
        refs.sweep(1_000);
        assert_eq!(refs.in_memory_count(), 10);
        let held = |n: u64| refs.get(&numbered(n), 0).expect("memory").is_some();
        assert!(!held(9) && held(10));
        // Not looked for again so soon.
        refs.sweep(2_000);
        assert_eq!(refs.in_memory_count(), 10);
        refs.sweep(1_000 + SWEEP_EVERY_MS);
        assert_eq!(refs.in_memory_count(), 0);
    }
}
