-- +goose Up
-- The key-encryption keys (KEKs) of this database's keyset. Processes that may open secrets store the KEKs of their sealer when the
-- canary opens. Processes that may only seal trust no other KEKs.
CREATE TABLE keks (
    id       text   PRIMARY KEY,
    found_at bigint NOT NULL
);

-- +goose Down
DROP TABLE keks;
