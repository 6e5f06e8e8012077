-- People who deleted their accounts. The SQLite twin is migrations/sqlite/records/0006_deleted_people.sql: keep the two
-- alike.

CREATE TABLE deleted_users (
    -- Primary key: deleted_users.
    id         UUID PRIMARY KEY,
    deleted_at TIMESTAMPTZ NOT NULL
);
