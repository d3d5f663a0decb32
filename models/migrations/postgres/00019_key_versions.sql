-- +goose Up
-- ai_keys has the active version of a key: its number, envelope and so on. version_at and version_by say when and by
-- whom the active version was handed in, and activated_at says when it became active; zero and empty for the first
-- version. last_version is the highest number so far. rotation_tx is the tx of the event that made it active in place
-- of replaced_version. Until probation_until, a refusal rolls the key back.
ALTER TABLE ai_keys
    ADD COLUMN last_version     integer NOT NULL DEFAULT 1,
    ADD COLUMN version_at       bigint  NOT NULL DEFAULT 0,
    ADD COLUMN version_by       text    COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN activated_at     bigint  NOT NULL DEFAULT 0,
    ADD COLUMN rotated_at       bigint  NOT NULL DEFAULT 0,
    ADD COLUMN rotated_by       text    COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN rotation_tx      bigint  NOT NULL DEFAULT 0,
    ADD COLUMN replaced_version integer NOT NULL DEFAULT 0,
    ADD COLUMN probation_until  bigint  NOT NULL DEFAULT 0;

-- The versions of a key that are not active. A destroyed version has no envelope. expires_at is the key's expires_at
-- while the version is active; -1 leaves the key's unchanged. overlap is how long the version that this version
-- replaces is kept, in microseconds.
CREATE TABLE key_versions (
    key_id              text    COLLATE "C" NOT NULL REFERENCES ai_keys (id),
    version             integer NOT NULL,
    state               text    NOT NULL CHECK (state IN ('pending', 'retiring', 'destroyed')),
    display_suffix      text    NOT NULL,
    envelope            bytea   NOT NULL,
    kek_id              text    COLLATE "C" NOT NULL,
    created_at          bigint  NOT NULL,
    created_by          text    COLLATE "C" NOT NULL,
    activated_at        bigint  NOT NULL,
    retire_at           bigint  NOT NULL,
    destroyed_at        bigint  NOT NULL,
    expires_at          bigint  NOT NULL,
    overlap             bigint  NOT NULL,
    last_failure_at     bigint  NOT NULL,
    last_failure_status integer NOT NULL,
    last_failure_reason text    NOT NULL,
    verdict             text    NOT NULL,
    verdict_reason      text    NOT NULL,
    verified_at         bigint  NOT NULL,
    PRIMARY KEY (key_id, version)
);
CREATE UNIQUE INDEX key_versions_kept ON key_versions (key_id, state) WHERE state <> 'destroyed';
CREATE INDEX key_versions_retiring ON key_versions (retire_at) WHERE state = 'retiring';

-- The version that a rotation with an Idempotency-Key made; zero for a registration.
ALTER TABLE idempotency_records ADD COLUMN version integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE idempotency_records DROP COLUMN version;
DROP TABLE key_versions;
ALTER TABLE ai_keys DROP COLUMN last_version, DROP COLUMN version_at, DROP COLUMN version_by, DROP COLUMN activated_at,
    DROP COLUMN rotated_at, DROP COLUMN rotated_by, DROP COLUMN rotation_tx, DROP COLUMN replaced_version, DROP COLUMN probation_until;
