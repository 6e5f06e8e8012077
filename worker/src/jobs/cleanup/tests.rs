//! Whatever people did before, and however often and by whom it is cleaned: what is still wanted stays.

use std::collections::{BTreeMap, BTreeSet};

use atelier_shared::config::StoreConfig;
use atelier_shared::domain::entry::{Author, Body, Record};
use atelier_shared::domain::file::{self, StoredFile};
use atelier_shared::domain::ids::{
    ClientId, ConnectionId, FileId, MessageId, PodId, RoomId, Seq, UserId,
};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::removal::RemovalState;
use atelier_shared::domain::room::{Role, RoomChoice, RoomKind};
use atelier_shared::ports::RoomPatch;
use atelier_shared::recovery;
use atelier_shared::removals::Restored;
use proptest::prelude::*;

use atelier_shared::domain::room::{Retention, Room};

use super::*;

const ROOMS: usize = 3;
const DELAY: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(3_600);

/// What happens, to which room.
#[derive(Debug, Clone)]
enum Step {
    /// Made, so many seconds ago.
    Make(usize, bool, i64),
    Enter(usize),
    Leave(usize),
    /// Something happened in it just now.
    Touch(usize),
    Keep(usize),
    /// Archived, as every entry is in the end.
    Write(usize),
    /// Uploaded so many seconds ago, into a room or into none.
    Upload(Option<usize>, i64),
    /// Bytes without a row, just written.
    Bytes,
    Clean(usize),
    CleanAll(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let room = 0..ROOMS;
    prop_oneof![
        3 => (room.clone(), any::<bool>(), 0_i64..900).prop_map(|(r, keep, ago)| Step::Make(r, keep, ago)),
        2 => room.clone().prop_map(Step::Enter),
        2 => room.clone().prop_map(Step::Leave),
        1 => room.clone().prop_map(Step::Touch),
        1 => room.clone().prop_map(Step::Keep),
        3 => room.clone().prop_map(Step::Write),
        2 => (prop::option::of(room.clone()), 0_i64..9_000).prop_map(|(r, ago)| Step::Upload(r, ago)),
        1 => Just(Step::Bytes),
        3 => room.prop_map(Step::Clean),
        2 => any::<bool>().prop_map(Step::CleanAll),
    ]
}

/// A room as the test knows it.
#[derive(Debug, Default, Clone)]
struct Known {
    keep: bool,
    quiet_s: i64,
    people: Vec<Member>,
    entries: u64,
    files: BTreeSet<FileId>,
}

struct World {
    cleaner: Cleaner,
    names: Vec<RoomId>,
    rooms: BTreeMap<usize, Known>,
    /// In no room, and how old.
    loose: BTreeMap<FileId, i64>,
    writer: UserId,
    _folder: tempfile::TempDir,
}

fn policy() -> Policy {
    Policy {
        room_delay: DELAY,
        file_grace: GRACE,
        notice: Duration::ZERO,
        settle: Duration::ZERO,
        keep: Duration::from_secs(3_600),
        rooms_every: Duration::from_secs(60),
        people_every: Duration::from_secs(60),
        everything_every: Duration::from_secs(60),
    }
}

/// One on stores of its own.
pub async fn embedded() -> (Cleaner, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let stores = StoreConfig {
        data_dir: folder.path().to_owned(),
        ..StoreConfig::default()
    };
    let backends = Backends::open(&stores).await.unwrap();
    (Cleaner::new(backends, policy()), folder)
}

impl World {
    async fn new() -> Self {
        let (cleaner, folder) = embedded().await;
        Self {
            cleaner,
            names: (0..ROOMS).map(|_| RoomId::generate()).collect(),
            rooms: BTreeMap::new(),
            loose: BTreeMap::new(),
            writer: UserId::generate(),
            _folder: folder,
        }
    }

    fn b(&self) -> &Backends {
        &self.cleaner.backends
    }

    fn is_wanted(known: &Known) -> bool {
        let delay_s = i64::try_from(DELAY.as_secs()).unwrap();
        known.keep || !known.people.is_empty() || known.quiet_s < delay_s
    }

    async fn make(&mut self, at: usize, keep: bool, quiet_s: i64) {
        let choice = RoomChoice {
            kind: Some(RoomKind::Open),
            retention: Some(if keep {
                Retention::Keep
            } else {
                Retention::Ephemeral
            }),
            ..RoomChoice::default()
        };
        let then = now() - chrono::Duration::seconds(quiet_s);
        let room = Room::new(
            self.names[at].clone(),
            choice,
            Some(self.writer),
            None,
            then,
        );
        if self.b().records.create_room(&room).await.unwrap() {
            let known = Known {
                keep,
                quiet_s,
                ..Known::default()
            };
            assert!(self.rooms.insert(at, known).is_none(), "made twice");
        } else {
            assert!(self.rooms.contains_key(&at), "its name should be free");
        }
    }

    async fn step(&mut self, step: Step) {
        let b = self.cleaner.backends.clone();
        match step {
            Step::Make(at, keep, quiet_s) => self.make(at, keep, quiet_s).await,
            Step::Enter(at) if self.rooms.contains_key(&at) => {
                let member = member(self.writer);
                b.presence
                    .enter(&self.names[at], &member, None)
                    .await
                    .unwrap();
                self.rooms.get_mut(&at).unwrap().people.push(member);
            }
            Step::Leave(at) => {
                if let Some(member) = self.rooms.get_mut(&at).and_then(|known| known.people.pop()) {
                    let room = &self.names[at];
                    b.presence
                        .leave(room, &member.client_id, member.connection)
                        .await
                        .unwrap();
                }
            }
            Step::Touch(at) if self.rooms.contains_key(&at) => {
                b.records.touch_room(&self.names[at], now()).await.unwrap();
                self.rooms.get_mut(&at).unwrap().quiet_s = 0;
            }
            Step::Keep(at) if self.rooms.contains_key(&at) => {
                let kept = RoomPatch {
                    retention: Some(Retention::Keep),
                    ..RoomPatch::default()
                };
                let room = b.records.patch_room(&self.names[at], &kept).await;
                assert!(room.unwrap().is_some());
                self.rooms.get_mut(&at).unwrap().keep = true;
            }
            Step::Write(at) if self.rooms.contains_key(&at) => {
                write(&b, &self.names[at], self.writer).await;
                self.rooms.get_mut(&at).unwrap().entries += 1;
            }
            Step::Upload(at, age_s) => {
                let at = at.filter(|at| self.rooms.contains_key(at));
                let room = at.map(|at| self.names[at].clone());
                let id = upload(&b, room, age_s).await;
                match at {
                    Some(at) => drop(self.rooms.get_mut(&at).unwrap().files.insert(id)),
                    None => drop(self.loose.insert(id, age_s)),
                }
            }
            Step::Bytes => {
                // Just written: its row may come yet.
                b.files
                    .put(&file::key(FileId::generate()), one_byte())
                    .await
                    .unwrap();
            }
            Step::Clean(at) => {
                let mut counts = Counts::new();
                self.cleaner
                    .abandoned_room(&self.names[at], false, &mut counts)
                    .await
                    .unwrap();
                if self
                    .rooms
                    .get(&at)
                    .is_some_and(|known| !Self::is_wanted(known))
                {
                    assert_eq!(counts.get("rooms"), Some(&1));
                    self.rooms.remove(&at);
                }
            }
            Step::CleanAll(dry_run) => {
                let mut counts = Counts::new();
                self.cleaner.files(dry_run, &mut counts).await.unwrap();
                self.cleaner.rooms(dry_run, &mut counts).await.unwrap();
                self.cleaner.remains(dry_run, &mut counts).await.unwrap();
                if !dry_run {
                    let grace_s = i64::try_from(GRACE.as_secs()).unwrap();
                    self.loose.retain(|_, age_s| *age_s < grace_s);
                }
            }
            _ => {}
        }
    }

    async fn check(&self) {
        let b = self.b();
        for (at, known) in &self.rooms {
            let name = &self.names[*at];
            assert!(
                b.records.room(name).await.unwrap().is_some(),
                "room {at} is gone"
            );
            let head = b.archive.head(name).await.unwrap();
            assert_eq!(head.seq.0, known.entries, "entries of room {at}");
            assert_eq!(
                b.presence.members(name).await.unwrap().len(),
                known.people.len()
            );
            for id in &known.files {
                assert!(
                    b.records.file(*id).await.unwrap().is_some(),
                    "a file of room {at}"
                );
                assert!(b.files.head(&file::key(*id)).await.unwrap().is_some());
            }
        }
        for id in self.loose.keys() {
            assert!(b.records.file(*id).await.unwrap().is_some(), "a loose file");
        }
        // And all that was removed can be brought back.
        for removal in b.records.removals(None, 100).await.unwrap().items {
            assert_eq!(removal.state, RemovalState::Removed);
            let kept = b.archive.backups(&removal.kept_under(), None, 100).await;
            let last = kept.unwrap().first().map_or(0, |part| part.seq.0);
            assert_eq!(last, removal.entries);
            let under = removal.kept_under();
            let files = b.records.files_of_room(&under, None, 100).await.unwrap();
            assert_eq!(files.items.len() as u64, removal.files);
        }
    }
}

/// An id that the server chose an hour ago.
pub fn old_name() -> RoomId {
    let then = u64::try_from(now().timestamp()).unwrap() - 3_600;
    let made = uuid::Timestamp::from_unix(uuid::NoContext, then, 0);
    Uuid::new_v7(made).to_string().parse().unwrap()
}

/// Somebody who has joined, by a gateway of their own.
pub fn member(user_id: UserId) -> Member {
    Member {
        client_id: ClientId::generate(),
        connection: ConnectionId::generate(),
        pod: PodId::generate(),
        user_id,
        name: "Ana".into(),
        color: "#000".into(),
        avatar_url: None,
        role: Role::Editor,
        status: Status::Active,
        simulated: false,
        joined: true,
        cursor_position: None,
        selection: None,
        viewing: None,
        name_is_exclusive: false,
    }
}

pub fn says(user_id: UserId) -> Record {
    Record {
        ts_ms: now().timestamp_millis(),
        author: Author {
            client_id: ClientId::generate(),
            user_id,
            connection: None,
            name: "Ana".into(),
            color: None,
            avatar_url: None,
        },
        reference: None,
        audience: None,
        body: Body::ChatMessage {
            id: MessageId::generate(),
            content: "kept".into(),
            mentions: Vec::new(),
            reply_to: None,
            thread: None,
            file_id: None,
            file_name: None,
        },
    }
}

pub async fn write(b: &Backends, room: &RoomId, by: UserId) {
    let ms = now().timestamp_millis();
    recovery::append(&*b.log, &*b.archive, &*b.queue, room, &says(by), ms)
        .await
        .unwrap();
    let archived = b.archive.head(room).await.unwrap();
    let tail = b.log.read(room, archived.epoch, archived.seq, 100).await;
    b.archive
        .append(room, archived.epoch, &tail.unwrap().unwrap())
        .await
        .unwrap();
}

pub async fn upload(b: &Backends, room: Option<RoomId>, age_s: i64) -> FileId {
    let id = FileId::generate();
    b.files.put(&file::key(id), one_byte()).await.unwrap();
    let file = StoredFile {
        id,
        room,
        uploader: None,
        uploader_name: "Ana".into(),
        name: "x".into(),
        content_type: "image/png".into(),
        size: 1,
        sha256: String::new(),
        created_at: now() - chrono::Duration::seconds(age_s),
    };
    b.records.create_file(&file, None).await.unwrap();
    id
}

fn one_byte() -> futures::stream::BoxStream<'static, Result<bytes::Bytes>> {
    Box::pin(futures::stream::once(async {
        Ok(bytes::Bytes::from_static(b"x"))
    }))
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_still_wanted_is_ever_deleted(steps in prop::collection::vec(step(), 1..40)) {
        run(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
                world.check().await;
            }
        });
    }
}

#[test]
fn a_removed_room_comes_back_as_it_was_beside_the_one_that_has_its_name() {
    run(async {
        let mut world = World::new().await;
        world.make(0, false, 900).await;
        let (b, name) = (world.b().clone(), world.names[0].clone());
        for _ in 0..3 {
            write(&b, &name, world.writer).await;
        }
        let picture = upload(&b, Some(name.clone()), 0).await;
        let before = b.archive.read(&name, Seq(0), 100).await.unwrap();
        let mut counts = Counts::new();
        world
            .cleaner
            .abandoned_room(&name, false, &mut counts)
            .await
            .unwrap();
        assert_eq!((counts["rooms"], counts["backups"]), (1, 1));
        let removal = b.records.removals(None, 10).await.unwrap().items.remove(0);
        assert_eq!((removal.entries, removal.files), (3, 1));
        // Somebody makes another room of that name meanwhile: nothing of the old one is in it.
        world.rooms.clear();
        world.make(0, false, 0).await;
        assert!(b.archive.read(&name, Seq(0), 100).await.unwrap().is_empty());
        assert!(b.archive.backups(&name, None, 10).await.unwrap().is_empty());
        let restored = removals::restore(&b, removal.id, now()).await.unwrap();
        let Restored::Done { room, entries } = restored else {
            panic!("{restored:?}");
        };
        assert!(room != name && entries == 3);
        let after = b.archive.read(&room, Seq(0), 100).await.unwrap();
        assert_eq!(before, after);
        let row = b.records.room(&room).await.unwrap().unwrap();
        assert_eq!(row.retention, Retention::Keep);
        let role = b.records.role(&room, world.writer).await.unwrap();
        assert_eq!(role, Some(Role::Host));
        let file = b.records.file(picture).await.unwrap().unwrap();
        assert_eq!(file.room.as_ref(), Some(&room));
        assert_eq!(
            removals::restore(&b, removal.id, now()).await.unwrap(),
            Restored::Missing
        );
    });
}

#[test]
fn who_comes_while_the_room_is_removed_has_it_back() {
    run(async {
        let mut world = World::new().await;
        world.make(0, false, 900).await;
        let (b, name) = (world.b().clone(), world.names[0].clone());
        write(&b, &name, world.writer).await;
        let removal = b
            .records
            .remove_room(&name, now(), now(), now() + chrono::Duration::hours(1))
            .await
            .unwrap()
            .unwrap();
        // They had read the row before it went.
        b.presence
            .enter(&name, &member(world.writer), None)
            .await
            .unwrap();
        let mut counts = Counts::new();
        world
            .cleaner
            .abandoned_room(&name, false, &mut counts)
            .await
            .unwrap();
        assert_eq!(counts["rooms_taken_back"], 1);
        assert!(b.records.removal(removal.id).await.unwrap().is_none());
        assert!(b.records.room(&name).await.unwrap().is_some());
        assert_eq!(b.archive.head(&name).await.unwrap().seq.0, 1);
    });
}

#[test]
fn a_removal_that_was_cut_off_is_taken_up_by_the_next_beat_and_expires_in_time() {
    run(async {
        let mut world = World::new().await;
        world.cleaner.policy.keep = Duration::ZERO;
        world.make(0, false, 900).await;
        let (b, name) = (world.b().clone(), world.names[0].clone());
        write(&b, &name, world.writer).await;
        let picture = upload(&b, Some(name.clone()), 0).await;
        let begun = b.records.remove_room(&name, now(), now(), now()).await;
        let removal = begun.unwrap().unwrap();
        // A worker that has it, and another that finds it so.
        let (claim, _) = removals::Claim::of(&b, removal.id).await.unwrap().unwrap();
        let mut counts = Counts::new();
        let cleaner = &world.cleaner;
        cleaner
            .abandoned_room(&name, false, &mut counts)
            .await
            .unwrap();
        assert_eq!(counts["removals_under_way"], 1);
        let entries = removals::keep_aside(&b, &claim, &removal).await.unwrap();
        removals::mark_kept(&b, &claim, entries).await.unwrap();
        removals::finish(&b, &claim, &removal, entries)
            .await
            .unwrap();
        assert_eq!(b.archive.head(&name).await.unwrap().seq.0, 0);
        let mut counts = Counts::new();
        cleaner.remains(true, &mut counts).await.unwrap();
        assert_eq!(
            (counts["expired_removals"], counts["orphaned_rooms"]),
            (1, 0)
        );
        cleaner.remains(false, &mut counts).await.unwrap();
        assert_eq!(counts["files"], 1);
        assert!(b.records.file(picture).await.unwrap().is_none());
        assert!(b.files.head(&file::key(picture)).await.unwrap().is_none());
        let left = b.archive.backups(&removal.kept_under(), None, 10).await;
        assert!(left.unwrap().is_empty());
    });
}

#[test]
fn what_a_deleted_room_leaves_goes_and_a_room_that_is_there_is_left_alone() {
    run(async {
        let mut world = World::new().await;
        world.names[0] = old_name();
        world.make(0, true, 0).await;
        world.make(1, true, 0).await;
        let b = world.b().clone();
        for at in 0..2 {
            write(&b, &world.names[at], world.writer).await;
        }
        b.records.delete_room(&world.names[0], now()).await.unwrap();
        let mut counts = Counts::new();
        world.cleaner.remains(true, &mut counts).await.unwrap();
        assert_eq!(b.archive.head(&world.names[0]).await.unwrap().seq.0, 1);
        world.cleaner.remains(false, &mut counts).await.unwrap();
        assert_eq!(counts["orphaned_rooms"], 2, "found once, removed once");
        assert_eq!(b.archive.head(&world.names[0]).await.unwrap().seq.0, 0);
        assert_eq!(b.archive.head(&world.names[1]).await.unwrap().seq.0, 1);
    });
}

/// Who looked in left a hundred seconds ago, between two beats.
#[tokio::test]
async fn a_room_that_was_looked_into_is_looked_at_again_when_its_own_time_is_over() {
    let (cleaner, _folder) = embedded().await;
    let (b, left) = (&cleaner.backends, Duration::from_secs(100));
    let choice = RoomChoice {
        kind: Some(RoomKind::Open),
        retention: Some(Retention::Ephemeral),
        ..RoomChoice::default()
    };
    let room = Room::new(
        RoomId::generate(),
        choice,
        None,
        None,
        now() - chrono_of(left),
    );
    assert!(b.records.create_room(&room).await.unwrap());
    let job = removals::room_job(room.id.clone(), Duration::ZERO);
    b.queue.enqueue(QUEUE_CLEANUP, &job).await.unwrap();
    let claim = || b.queue.claim(QUEUE_CLEANUP, DELAY * 9, 1);
    let held = claim().await.unwrap().unwrap();
    let mut counts = Counts::new();
    cleaner
        .abandoned_room(&room.id, false, &mut counts)
        .await
        .unwrap();
    b.queue.finish(&held.lease).await.unwrap();
    let due = claim().await.unwrap().unwrap_err().unwrap();
    assert!(due <= DELAY - left, "{due:?}");
    assert!(b.records.room(&room.id).await.unwrap().is_some());
}
