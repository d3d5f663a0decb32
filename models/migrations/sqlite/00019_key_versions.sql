-- +goose Up
-- ai_keys has the active version of a key: its number, envelope and so on. version_at and version_by say when and by
-- whom the active version was handed in, and activated_at says when it became active; zero and empty for the first
-- version. last_version is the highest number so far. rotation_tx is the tx of the event that made it active in place
-- of replaced_version. Until probation_until, a refusal rolls the key back.
ALTER TABLE ai_keys ADD COLUMN last_version integer NOT NULL DEFAULT 1;
ALTER TABLE ai_keys ADD COLUMN version_at integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN version_by text NOT NULL DEFAULT '';
ALTER TABLE ai_keys ADD COLUMN activated_at integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN rotated_at integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN rotated_by text NOT NULL DEFAULT '';
ALTER TABLE ai_keys ADD COLUMN rotation_tx integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN replaced_version integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN probation_until integer NOT NULL DEFAULT 0;

-- The versions of a key that are not active. A destroyed version has no envelope. expires_at is the key's expires_at
-- while the version is active; -1 leaves the key's unchanged. overlap is how long the version that this version
-- replaces is kept, in microseconds.
CREATE TABLE key_versions (
    key_id              text  NOT NULL REFERENCES ai_keys (id),
    version             integer NOT NULL,
    state               text    NOT NULL CHECK (state IN ('pending', 'retiring', 'destroyed')),
    display_suffix      text    NOT NULL,
    envelope            blob   NOT NULL,
    kek_id              text  NOT NULL,
    created_at          integer  NOT NULL,
    created_by          text  NOT NULL,
    activated_at        integer  NOT NULL,
    retire_at           integer  NOT NULL,
    destroyed_at        integer  NOT NULL,
    expires_at          integer  NOT NULL,
    overlap             integer  NOT NULL,
    last_failure_at     integer  NOT NULL,
    last_failure_status integer NOT NULL,
    last_failure_reason text    NOT NULL,
    verdict             text    NOT NULL,
    verdict_reason      text    NOT NULL,
    verified_at         integer  NOT NULL,
    PRIMARY KEY (key_id, version)
) WITHOUT ROWID;
CREATE UNIQUE INDEX key_versions_kept ON key_versions (key_id, state) WHERE state <> 'destroyed';
CREATE INDEX key_versions_retiring ON key_versions (retire_at) WHERE state = 'retiring';

-- The version that a rotation with an Idempotency-Key made; zero for a registration.
ALTER TABLE idempotency_records ADD COLUMN version integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE idempotency_records DROP COLUMN version;
DROP TABLE key_versions;
ALTER TABLE ai_keys DROP COLUMN last_version;
ALTER TABLE ai_keys DROP COLUMN version_at;
ALTER TABLE ai_keys DROP COLUMN version_by;
ALTER TABLE ai_keys DROP COLUMN activated_at;
ALTER TABLE ai_keys DROP COLUMN rotated_at;
ALTER TABLE ai_keys DROP COLUMN rotated_by;
ALTER TABLE ai_keys DROP COLUMN rotation_tx;
ALTER TABLE ai_keys DROP COLUMN replaced_version;
ALTER TABLE ai_keys DROP COLUMN probation_until;
