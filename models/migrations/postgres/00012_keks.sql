-- +goose Up
-- The key-encryption keys (KEKs) of this database's keyset, as processes found that may open: those beside which the canary opened.
-- A process that may only seal trusts no other KEK.
CREATE TABLE keks (
    id       text   PRIMARY KEY,
    found_at bigint NOT NULL
);

-- +goose Down
DROP TABLE keks;
