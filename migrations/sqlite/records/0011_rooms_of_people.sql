-- A person's rooms by age, so that a page of list_rooms for them reads as many rows as it shows. The Postgres twin is
-- migrations/postgres/0011_rooms_of_people.sql: keep the two alike.

-- The room's created_at, which never changes. Kept by a trigger: a program of the version before writes rows without it.
ALTER TABLE room_members ADD COLUMN room_created_at TEXT NOT NULL DEFAULT '';
UPDATE room_members
SET room_created_at = (SELECT created_at FROM rooms WHERE rooms.id = room_members.room_id);
CREATE TRIGGER room_members_dated AFTER INSERT ON room_members BEGIN
    UPDATE room_members SET room_created_at = (SELECT created_at FROM rooms WHERE id = NEW.room_id)
    WHERE room_id = NEW.room_id AND user_id = NEW.user_id;
END;
-- The own part of list_rooms for For(person); what a person leaves.
DROP INDEX room_members_by_user;
CREATE INDEX room_members_by_user ON room_members (user_id, room_created_at, room_id);
