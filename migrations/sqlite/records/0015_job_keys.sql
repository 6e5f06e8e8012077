-- Under which Idempotency-Key a job was asked for (a hash of it, its sender and its path): a gateway that died before it had
-- answered is asked again.
ALTER TABLE jobs ADD COLUMN asked_key BLOB;
-- create_job_once.
CREATE UNIQUE INDEX jobs_by_key ON jobs (asked_key) WHERE asked_key IS NOT NULL;
