-- Insights: what people found worth keeping, shared with a team. The SQLite twin is
-- migrations/sqlite/records/0008_insights.sql: keep the two alike.

CREATE TABLE insights (
    -- UUID v7: newest last.
    id         UUID PRIMARY KEY,
    -- NULL: the author's alone.
    team_id    UUID REFERENCES places (id) ON DELETE CASCADE,
    author     UUID NOT NULL,
    title      TEXT NOT NULL,
    body       TEXT NOT NULL,
    -- JSON arrays: words, and {kind, id, room_id}.
    tags       TEXT NOT NULL,
    links      TEXT NOT NULL,
    -- Title, body and tags in lower case, for searching.
    words      TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
-- list_insights: one's own.
CREATE INDEX insights_by_author ON insights (author, id);
-- list_insights: a team's.
CREATE INDEX insights_by_team ON insights (team_id, id) WHERE team_id IS NOT NULL;

CREATE TABLE insight_votes (
    insight_id UUID NOT NULL REFERENCES insights (id) ON DELETE CASCADE,
    user_id    UUID NOT NULL,
    -- One for each person.
    PRIMARY KEY (insight_id, user_id)
);
