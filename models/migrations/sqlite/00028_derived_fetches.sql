-- +goose Up
-- When the credential that a data plane got expires, if it was derived from the key's secret; zero otherwise.
ALTER TABLE fetches ADD COLUMN derived_until integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE fetches DROP COLUMN derived_until;
