-- +goose Up
-- What happens when the chosen key has reached a limit, its provider's or its own.
ALTER TABLE project_policies ADD COLUMN on_limited TEXT NOT NULL DEFAULT 'fail' CHECK (on_limited IN ('fail', 'next_key'));

-- +goose Down
ALTER TABLE project_policies DROP COLUMN on_limited;
