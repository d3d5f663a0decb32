-- +goose Up
-- For how many days a member's removal can be undone unless the removal itself says. NULL means the default.
ALTER TABLE project_policies
    ADD COLUMN removal_grace_days integer CHECK (removal_grace_days BETWEEN 0 AND 365);

-- +goose Down
ALTER TABLE project_policies DROP COLUMN removal_grace_days;
