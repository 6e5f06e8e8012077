-- doubt_queued: holds only the jobs that are not over. Literals, because an index's condition can't be bound.
CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE state IN ('queued', 'running');
