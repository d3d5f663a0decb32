-- +goose Up
-- What a key may be used for, in JSON; empty for anything.
ALTER TABLE ai_keys ADD COLUMN restrictions text COLLATE "C" NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN restrictions;
