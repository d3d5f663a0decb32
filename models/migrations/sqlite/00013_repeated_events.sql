-- +goose Up
-- How many denied attempts the event stands for, and when the first one was. Both are zero in an event of one attempt.
ALTER TABLE events ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN first_at INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE events DROP COLUMN repeated;
ALTER TABLE events DROP COLUMN first_at;
