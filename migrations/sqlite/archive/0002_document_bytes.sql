-- How large the document in each checkpoint is, so that sizes are known without reading states.
ALTER TABLE checkpoints ADD COLUMN document_bytes INTEGER NOT NULL DEFAULT 0;
