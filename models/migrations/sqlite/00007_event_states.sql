-- +goose Up
-- The states before and after a change of the policy or of a member, in JSON: see EventState. null where there was none, and in
-- other events.
ALTER TABLE events ADD COLUMN before text NOT NULL DEFAULT 'null';
ALTER TABLE events ADD COLUMN after text NOT NULL DEFAULT 'null';

-- +goose Down
ALTER TABLE events DROP COLUMN before;
ALTER TABLE events DROP COLUMN after;
