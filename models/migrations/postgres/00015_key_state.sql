-- +goose Up
-- A disabled key serves nobody until it is enabled; disabled_tx is the tx of its key.disabled event. A key serves until expires_at.
-- expiry_due_at is when its next key.expiring or key.expired event is due. All are zero for none. revision counts people's changes.
ALTER TABLE ai_keys
    ADD COLUMN disabled_at   bigint  NOT NULL DEFAULT 0,
    ADD COLUMN disabled_by   text    COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN disabled_tx   bigint  NOT NULL DEFAULT 0,
    ADD COLUMN expires_at    bigint  NOT NULL DEFAULT 0,
    ADD COLUMN expiry_due_at bigint  NOT NULL DEFAULT 0,
    ADD COLUMN revision      integer NOT NULL DEFAULT 1;
CREATE INDEX ai_keys_expiry_due ON ai_keys (expiry_due_at) WHERE expiry_due_at <> 0;

-- +goose Down
DROP INDEX ai_keys_expiry_due;
ALTER TABLE ai_keys DROP COLUMN disabled_at, DROP COLUMN disabled_by, DROP COLUMN disabled_tx, DROP COLUMN expires_at,
    DROP COLUMN expiry_due_at, DROP COLUMN revision;
