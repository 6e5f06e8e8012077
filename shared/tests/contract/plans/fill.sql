-- Twenty thousand strangers' rows in every table that grows.
INSERT INTO users (id, kind, username, username_key, name, email, email_key, is_admin, created_at)
SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'guest' ELSE 'account' END, 'p' || n,
       CASE WHEN n % 2 = 0 THEN NULL ELSE 'p' || n END, 'P', NULL, NULL, FALSE, now() - n * interval '10 minutes'
FROM generate_series(1, 20000) AS n;
INSERT INTO deleted_users (id, deleted_at) SELECT gen_random_uuid(), now() FROM generate_series(1, 20000);
INSERT INTO places (id, kind, parent, name, description, created_at, version)
SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'team' ELSE 'workspace' END, NULL, 'P', '', now(), 1
FROM generate_series(1, 5000) AS n;
INSERT INTO places (id, kind, parent, name, description, created_at, version)
SELECT gen_random_uuid(), 'project', w.id, 'P', '', now(), 1
FROM (SELECT id FROM places WHERE kind = 'workspace') AS w, generate_series(1, 4);
INSERT INTO place_members (place_id, user_id, role) SELECT id, gen_random_uuid(), 'owner' FROM places;
INSERT INTO place_members (place_id, user_id, role) SELECT id, gen_random_uuid(), 'member' FROM places;
INSERT INTO rooms (id, name, kind, access, listed, retention, allows, created_by, creator_address, project_id,
                   role_version, created_at, last_activity_at)
SELECT 'stranger-' || n, 'R', 'open', 'open', n % 2 = 0, 'keep', '["chat"]', gen_random_uuid(), '192.0.2.' || n % 250,
       NULL, 1, now() - n * interval '1 second', now()
FROM generate_series(1, 20000) AS n;
UPDATE rooms SET project_id = p.id
FROM (SELECT id, row_number() OVER () AS n FROM places WHERE kind = 'project') AS p
WHERE rooms.id = 'stranger-' || p.n;
INSERT INTO room_members (room_id, user_id, role) SELECT id, created_by, 'host' FROM rooms;
INSERT INTO deleted_rooms (id, deleted_at)
SELECT 'gone-' || n, now() FROM generate_series(1, 20000) AS n;
INSERT INTO invites (id, room_id, code_hash, role, created_by, created_at, uses)
SELECT gen_random_uuid(), id, sha256(id::bytea), 'editor', gen_random_uuid(), now(), 0 FROM rooms;
INSERT INTO jobs (id, owner, owner_name, room_id, project_id, priority, spec, state, attempts, queued, created_at)
SELECT gen_random_uuid(), u.id, 'P', 'stranger-' || u.n, NULL, 0, '{}', 'succeeded', 1, TRUE, now()
FROM (SELECT id, row_number() OVER () AS n FROM users) AS u;
INSERT INTO files (id, room_id, uploader_name, name, content_type, size, sha256, created_at)
SELECT gen_random_uuid(), 'stranger-' || n, 'P', 'f', 'image/png', 1, '', now() FROM generate_series(1, 20000) AS n;
INSERT INTO cleanup_runs (id, scope, dry_run, state, counts, asked_at)
SELECT gen_random_uuid(), 'rooms', FALSE, 'succeeded', '{}', now() FROM generate_series(1, 5000);
INSERT INTO insights (id, team_id, author, title, body, tags, links, words, created_at, updated_at)
SELECT gen_random_uuid(), t.id, gen_random_uuid(), 'T', '', '[]', '[]', 't', now(), now()
FROM (SELECT id FROM places WHERE kind = 'team') AS t, generate_series(1, 8);
INSERT INTO insight_votes (insight_id, user_id) SELECT id, gen_random_uuid() FROM insights;
INSERT INTO removed_rooms (id, room_id, state, snapshot, entries, files, removed_at, expires_at)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'gone-' || n, 'removed',
       '{"room": {"id": "gone", "name": "R", "kind": "open", "access": "open", "listed": true, "retention": "keep",
                  "allows": ["chat"], "created_by": null, "creator_address": null, "project_id": null,
                  "role_version": 1, "created_at": "2026-01-01T00:00:00Z", "last_activity_at": "2026-01-01T00:00:00Z"},
         "members": []}',
       0, 0, now(), now() + interval '1 day' + n * interval '1 second'
FROM generate_series(1, 20000) AS n;
INSERT INTO room_visits (room_id, client_id, joined_at, user_id, name, color, simulated, left_at)
SELECT 'stranger-' || n, 'c', now() - n * interval '1 minute', gen_random_uuid(), 'P', 'teal', FALSE,
       CASE WHEN n % 2 = 0 THEN now() END
FROM generate_series(1, 20000) AS n;
ANALYZE;
