-- Lists that ask for some of the rooms or jobs that one may see: each page reads as many rows as it shows. The SQLite twin
-- is migrations/sqlite/records/0013_lists_of_a_kind.sql: keep the two alike.

-- list_rooms of one kind (sessions): for All, for Listed and the listed part of For(person), and its inherited part.
CREATE INDEX rooms_by_kind ON rooms (kind, created_at, id);
CREATE INDEX rooms_listed_by_kind ON rooms (kind, created_at, id) WHERE listed;
CREATE INDEX rooms_by_project_and_kind ON rooms (project_id, kind, created_at, id) WHERE project_id IS NOT NULL;

-- The room's kind beside a member, for the own part. Kept by triggers: whoever adds a member or changes the kind has locked
-- the room's row before.
ALTER TABLE room_members ADD COLUMN room_kind TEXT;
CREATE OR REPLACE FUNCTION date_room_member() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT created_at, kind INTO NEW.room_created_at, NEW.room_kind FROM rooms WHERE id = NEW.room_id;
    RETURN NEW;
END
$$;
CREATE FUNCTION tell_room_members_kind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE room_members SET room_kind = NEW.kind WHERE room_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER rooms_kind_told AFTER UPDATE OF kind ON rooms FOR EACH ROW
WHEN (NEW.kind IS DISTINCT FROM OLD.kind) EXECUTE FUNCTION tell_room_members_kind();
UPDATE room_members SET room_kind = (SELECT kind FROM rooms WHERE rooms.id = room_members.room_id);
CREATE INDEX room_members_by_kind ON room_members (user_id, room_kind, room_created_at, room_id);

-- list_jobs in one state, of one room, of one project. Of those asked for together the room's or project's is read, and the
-- state looked at.
CREATE INDEX jobs_by_state ON jobs (owner, state, id);
CREATE INDEX jobs_by_room ON jobs (owner, room_id, id) WHERE room_id IS NOT NULL;
CREATE INDEX jobs_by_project ON jobs (owner, project_id, id) WHERE project_id IS NOT NULL;
