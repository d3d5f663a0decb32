-- +goose Up
-- The key-encryption keys (KEKs) of this database's keyset, as processes found that may open: those beside which the canary opened.
-- A process that may only seal trusts no other KEK.
CREATE TABLE keks (
    id       text    NOT NULL PRIMARY KEY,
    found_at integer NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE keks;
