-- +goose Up
-- How many denied attempts the event stands for, and when the first one was. Both are zero in an event of one attempt.
ALTER TABLE events
    ADD COLUMN repeated bigint NOT NULL DEFAULT 0,
    ADD COLUMN first_at bigint NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE events DROP COLUMN repeated, DROP COLUMN first_at;
