-- +goose Up
-- How many days a member's removal can be undone if the removal does not set a time itself. NULL means the default.
ALTER TABLE project_policies ADD COLUMN removal_grace_days integer CHECK (removal_grace_days BETWEEN 0 AND 365);

-- +goose Down
ALTER TABLE project_policies DROP COLUMN removal_grace_days;
