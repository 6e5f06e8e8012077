-- A person's rooms by age, so that a page of list_rooms for them reads as many rows as it shows. The SQLite twin is
-- migrations/sqlite/records/0011_rooms_of_people.sql: keep the two alike.

-- The room's created_at, which never changes. Kept by a trigger: a program of the version before writes rows without it.
CREATE FUNCTION date_room_member() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT created_at INTO NEW.room_created_at FROM rooms WHERE id = NEW.room_id;
    RETURN NEW;
END
$$;
ALTER TABLE room_members ADD COLUMN room_created_at TIMESTAMPTZ;
CREATE TRIGGER room_members_dated BEFORE INSERT ON room_members FOR EACH ROW EXECUTE FUNCTION date_room_member();
UPDATE room_members
SET room_created_at = (SELECT created_at FROM rooms WHERE rooms.id = room_members.room_id);
-- The own part of list_rooms for For(person); what a person leaves.
DROP INDEX room_members_by_user;
CREATE INDEX room_members_by_user ON room_members (user_id, room_created_at, room_id);
