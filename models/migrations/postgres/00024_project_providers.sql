-- +goose Up
-- The project whose owners added the provider; only that project can use it. Empty if an operator added it for all the customer's projects.
ALTER TABLE custom_providers ADD COLUMN project_id text COLLATE "C" NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE custom_providers DROP COLUMN project_id;
