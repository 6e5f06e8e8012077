-- Logins: families of refresh tokens. Tokens are kept as SHA-256; times are RFC 3339 in UTC, whose text sorts as the
-- times do; ids are the 16 bytes of the UUID.

CREATE TABLE families (
    id         BLOB PRIMARY KEY NOT NULL,
    user_id    BLOB NOT NULL,
    expires_at TEXT NOT NULL,
    -- The token that may be presented next.
    current    BLOB NOT NULL
) STRICT;
-- revoke_user.
CREATE INDEX families_by_user ON families (user_id);
-- Forgetting families that are over.
CREATE INDEX families_by_end ON families (expires_at);

-- Tokens that had a successor: presented late, they tell of a copy.
CREATE TABLE replaced_tokens (
    family_id   BLOB NOT NULL REFERENCES families (id) ON DELETE CASCADE,
    token       BLOB NOT NULL,
    replaced_at TEXT NOT NULL,
    PRIMARY KEY (family_id, token)
) STRICT;
-- Forgetting the oldest beyond the bound.
CREATE INDEX replaced_tokens_by_age ON replaced_tokens (family_id, replaced_at);

-- Families ended before their time, until no access token of theirs can be valid any more.
CREATE TABLE revoked_families (
    id    BLOB PRIMARY KEY NOT NULL,
    until TEXT NOT NULL
) STRICT;
-- Forgetting those that are past.
CREATE INDEX revoked_families_by_end ON revoked_families (until);
