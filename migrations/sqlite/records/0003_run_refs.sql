-- Which message of a room asked for a run: under one ref of one client it runs once.
ALTER TABLE jobs ADD COLUMN asked_client TEXT;
ALTER TABLE jobs ADD COLUMN asked_ref TEXT;
-- create_job.
CREATE UNIQUE INDEX jobs_by_ref ON jobs (room_id, owner, asked_client, asked_ref) WHERE asked_ref IS NOT NULL;
