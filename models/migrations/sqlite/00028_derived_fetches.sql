-- +goose Up
-- When what a data plane got ends, if it was made from the key and is not its secret itself; zero otherwise.
ALTER TABLE fetches ADD COLUMN derived_until integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE fetches DROP COLUMN derived_until;
