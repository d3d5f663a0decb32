-- +goose Up
-- Who made a data plane's credential and who revoked it: the user of the machine on which the command ran. Empty if the command
-- did not say.
ALTER TABLE data_planes
    ADD COLUMN created_by text NOT NULL DEFAULT '',
    ADD COLUMN revoked_by text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE data_planes DROP COLUMN created_by, DROP COLUMN revoked_by;
