-- +goose Up
-- Keyed fingerprints of the secrets of versions of keys, including destroyed versions.
CREATE TABLE key_fingerprints (
    customer_id text    NOT NULL,
    fingerprint blob    NOT NULL,
    key_id      text    NOT NULL,
    version     integer NOT NULL,
    PRIMARY KEY (customer_id, fingerprint, key_id, version)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE key_fingerprints;
