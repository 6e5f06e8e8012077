-- Workspaces, their projects, and teams, with their members. The Postgres twin is
-- migrations/postgres/0004_places.sql: keep the two alike.

CREATE TABLE places (
    -- UUID v7: the order of ids is the order in which places were made.
    id          BLOB PRIMARY KEY NOT NULL,
    -- workspace, project or team.
    kind        TEXT NOT NULL,
    -- A project's workspace; NULL for the others.
    parent      BLOB REFERENCES places (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    created_by  BLOB,
    created_at  TEXT NOT NULL,
    -- Raised by whatever changes who is in a workspace or what it holds: its row lock puts those changes in order.
    version     INTEGER NOT NULL
) STRICT;
-- list_places for All.
CREATE INDEX places_by_kind ON places (kind, id);
-- list_places for In(workspace), and from a workspace to its projects wherever roles are inherited.
CREATE INDEX places_by_parent ON places (parent, id) WHERE parent IS NOT NULL;

CREATE TABLE place_members (
    place_id BLOB NOT NULL REFERENCES places (id) ON DELETE CASCADE,
    -- By value, as everywhere: a person's row may go.
    user_id  BLOB NOT NULL,
    -- owner, admin, member or viewer.
    role     TEXT NOT NULL,
    -- place_role, place_members, and the roles that rooms inherit.
    PRIMARY KEY (place_id, user_id)
) STRICT;
-- list_places for Of(person), and the inherited third of list_rooms for For(person).
CREATE INDEX place_members_by_user ON place_members (user_id, place_id);

-- The rooms of a project: the inherited third of list_rooms, and raising their role versions.
CREATE INDEX rooms_by_project ON rooms (project_id, created_at, id) WHERE project_id IS NOT NULL;
