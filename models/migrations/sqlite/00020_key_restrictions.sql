-- +goose Up
-- The restrictions of a key in JSON; empty for none.
ALTER TABLE ai_keys ADD COLUMN restrictions text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN restrictions;
