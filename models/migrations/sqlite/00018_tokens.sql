-- +goose Up
-- projects and barred are lists of project ids, each with a space before and after it. projects are those in which an
-- API key may act; empty means every project of its user. barred are those in which it may no longer act. parent_id is
-- the API key with which it was made. revocation_tx is the tx of the token.revoked event that revoked it, and bar_tx is
-- the tx of the last event that barred it from a project.
ALTER TABLE api_tokens ADD COLUMN name text NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN projects text NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN barred text NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN parent_id text NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN last_used_at integer NOT NULL DEFAULT 0;
ALTER TABLE api_tokens ADD COLUMN revoked_by text NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN revocation_tx integer NOT NULL DEFAULT 0;
ALTER TABLE api_tokens ADD COLUMN barred_at integer NOT NULL DEFAULT 0;
ALTER TABLE api_tokens ADD COLUMN barred_by text NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN bar_tx integer NOT NULL DEFAULT 0;
CREATE INDEX api_tokens_by_user ON api_tokens (customer_id, user_id, id);
CREATE INDEX project_members_by_user ON project_members (customer_id, user_id, project_id);

-- +goose Down
DROP INDEX project_members_by_user;
DROP INDEX api_tokens_by_user;
ALTER TABLE api_tokens DROP COLUMN name;
ALTER TABLE api_tokens DROP COLUMN projects;
ALTER TABLE api_tokens DROP COLUMN barred;
ALTER TABLE api_tokens DROP COLUMN parent_id;
ALTER TABLE api_tokens DROP COLUMN last_used_at;
ALTER TABLE api_tokens DROP COLUMN revoked_by;
ALTER TABLE api_tokens DROP COLUMN revocation_tx;
ALTER TABLE api_tokens DROP COLUMN barred_at;
ALTER TABLE api_tokens DROP COLUMN barred_by;
ALTER TABLE api_tokens DROP COLUMN bar_tx;
