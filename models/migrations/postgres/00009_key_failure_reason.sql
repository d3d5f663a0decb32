-- +goose Up
-- Why the provider refused the key; empty if the data plane did not say.
ALTER TABLE ai_keys ADD COLUMN last_failure_reason text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN last_failure_reason;
