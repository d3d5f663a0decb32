-- +goose Up
-- The result of the key's last test at its provider, and its time. verified_at is zero if there was none.
ALTER TABLE ai_keys ADD COLUMN verdict text NOT NULL DEFAULT '';
ALTER TABLE ai_keys ADD COLUMN verdict_reason text NOT NULL DEFAULT '';
ALTER TABLE ai_keys ADD COLUMN verified_at bigint NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN verdict;
ALTER TABLE ai_keys DROP COLUMN verdict_reason;
ALTER TABLE ai_keys DROP COLUMN verified_at;
