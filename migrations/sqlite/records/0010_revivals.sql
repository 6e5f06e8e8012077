-- How often a dead job was put back: its second start and end are told to its room as well as the first.
ALTER TABLE jobs ADD COLUMN revivals INTEGER NOT NULL DEFAULT 0;
