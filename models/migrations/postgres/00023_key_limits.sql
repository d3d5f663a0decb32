-- +goose Up
-- How many requests a key serves, in JSON; empty for any number.
ALTER TABLE ai_keys ADD COLUMN limits text COLLATE "C" NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN limits;
