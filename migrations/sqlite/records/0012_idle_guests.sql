-- Guests whose logins have lapsed, and the votes of one person. The Postgres twin is
-- migrations/postgres/0012_idle_guests.sql: keep the two alike.

-- guests.
CREATE INDEX users_guests ON users (id) WHERE kind = 'guest';
-- delete_user, forget_guest.
CREATE INDEX insight_votes_by_user ON insight_votes (user_id);
