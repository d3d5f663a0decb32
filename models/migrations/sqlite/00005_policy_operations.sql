-- +goose Up
-- The operations of providers that the project's keys serve.
ALTER TABLE project_policies ADD COLUMN operations TEXT NOT NULL DEFAULT 'inference' CHECK (operations IN ('inference', 'all'));

-- +goose Down
ALTER TABLE project_policies DROP COLUMN operations;
