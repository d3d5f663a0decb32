-- +goose Up
-- The project whose owners added the provider, and which alone can use it. Empty is every project of the customer, by the operator.
ALTER TABLE custom_providers ADD COLUMN project_id text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE custom_providers DROP COLUMN project_id;
