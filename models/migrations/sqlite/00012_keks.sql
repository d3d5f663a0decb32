-- +goose Up
-- The key-encryption keys (KEKs) of this database's keyset. Processes that may open secrets store the KEKs of their sealer when the
-- canary opens. Processes that may only seal trust no other KEKs.
CREATE TABLE keks (
    id       text    NOT NULL PRIMARY KEY,
    found_at integer NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE keks;
