-- +goose Up
-- For how many days the removal of a member can be undone if it does not say. NULL is the default.
ALTER TABLE project_policies ADD COLUMN removal_grace_days integer CHECK (removal_grace_days BETWEEN 0 AND 365);

-- +goose Down
ALTER TABLE project_policies DROP COLUMN removal_grace_days;
