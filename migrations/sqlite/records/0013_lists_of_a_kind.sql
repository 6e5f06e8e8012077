-- Lists that ask for some of the rooms or jobs that one may see: each page reads as many rows as it shows. The Postgres twin
-- is migrations/postgres/0013_lists_of_a_kind.sql: keep the two alike.

-- list_rooms of one kind (sessions): for All, for Listed and the listed part of For(person), and its inherited part.
CREATE INDEX rooms_by_kind ON rooms (kind, created_at, id);
CREATE INDEX rooms_listed_by_kind ON rooms (kind, created_at, id) WHERE listed;
CREATE INDEX rooms_by_project_and_kind ON rooms (project_id, kind, created_at, id) WHERE project_id IS NOT NULL;

-- The room's kind beside a member, for the own part. Kept by triggers: whoever adds a member or changes the kind has locked
-- the room's row before.
ALTER TABLE room_members ADD COLUMN room_kind TEXT NOT NULL DEFAULT '';
DROP TRIGGER room_members_dated;
CREATE TRIGGER room_members_dated AFTER INSERT ON room_members BEGIN
    UPDATE room_members
    SET (room_created_at, room_kind) = (SELECT created_at, kind FROM rooms WHERE id = NEW.room_id)
    WHERE room_id = NEW.room_id AND user_id = NEW.user_id;
END;
CREATE TRIGGER rooms_kind_told AFTER UPDATE OF kind ON rooms WHEN NEW.kind <> OLD.kind BEGIN
    UPDATE room_members SET room_kind = NEW.kind WHERE room_id = NEW.id;
END;
UPDATE room_members SET room_kind = (SELECT kind FROM rooms WHERE rooms.id = room_members.room_id);
CREATE INDEX room_members_by_kind ON room_members (user_id, room_kind, room_created_at, room_id);

-- list_jobs in one state, of one room, of one project. Of those asked for together the room's or project's is read, and the
-- state looked at.
CREATE INDEX jobs_by_state ON jobs (owner, state, id);
CREATE INDEX jobs_by_room ON jobs (owner, room_id, id) WHERE room_id IS NOT NULL;
CREATE INDEX jobs_by_project ON jobs (owner, project_id, id) WHERE project_id IS NOT NULL;
