-- +goose Up
-- Keyed fingerprints of the secrets of versions of keys, including destroyed versions.
CREATE TABLE key_fingerprints (
    customer_id text   COLLATE "C" NOT NULL,
    fingerprint bytea  NOT NULL,
    key_id      text   COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    PRIMARY KEY (customer_id, fingerprint, key_id, version)
);

-- +goose Down
DROP TABLE key_fingerprints;
