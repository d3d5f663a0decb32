-- +goose Up
-- What a change of the policy or of a member changed, in JSON: see EventState. null is what did not exist, and in other events.
ALTER TABLE events
    ADD COLUMN before text NOT NULL DEFAULT 'null',
    ADD COLUMN after  text NOT NULL DEFAULT 'null';

-- +goose Down
ALTER TABLE events DROP COLUMN before, DROP COLUMN after;
