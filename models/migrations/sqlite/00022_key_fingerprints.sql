-- +goose Up
-- The keyed fingerprints of what is secret in the versions of keys, those of destroyed versions too. Their key is sealed.
CREATE TABLE key_fingerprints (
    customer_id text    NOT NULL,
    fingerprint blob    NOT NULL,
    key_id      text    NOT NULL,
    version     integer NOT NULL,
    PRIMARY KEY (customer_id, fingerprint, key_id, version)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE key_fingerprints;
