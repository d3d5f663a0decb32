-- +goose Up
-- certificate is the name by which client certificates identify a data plane, such as dns:edge-1.internal; empty for a
-- data plane with a token, which has a hash instead.
ALTER TABLE data_planes ADD COLUMN certificate text NOT NULL DEFAULT '';
CREATE UNIQUE INDEX data_planes_active_certificate ON data_planes (certificate) WHERE (certificate <> '') AND (revoked_at = 0);

-- +goose Down
DROP INDEX data_planes_active_certificate;
ALTER TABLE data_planes DROP COLUMN certificate;
