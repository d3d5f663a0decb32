-- +goose Up
-- projects and barred are lists of project ids, each with a space before and after it. projects are those in which an
-- API key may act; empty means every project of its user. barred are those in which it may no longer act. parent_id is
-- the API key with which it was made. revocation_tx is the tx of the token.revoked event that revoked it, and bar_tx is
-- the tx of the last event that barred it from a project.
ALTER TABLE api_tokens
    ADD COLUMN name          text   COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN projects      text   COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN barred        text   COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN parent_id     text   COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN last_used_at  bigint NOT NULL DEFAULT 0,
    ADD COLUMN revoked_by    text   COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN revocation_tx bigint NOT NULL DEFAULT 0,
    ADD COLUMN barred_at     bigint NOT NULL DEFAULT 0,
    ADD COLUMN barred_by     text   COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN bar_tx        bigint NOT NULL DEFAULT 0;
CREATE INDEX api_tokens_by_user ON api_tokens (customer_id, user_id, id);
CREATE INDEX project_members_by_user ON project_members (customer_id, user_id, project_id);

-- +goose Down
DROP INDEX project_members_by_user;
DROP INDEX api_tokens_by_user;
ALTER TABLE api_tokens DROP COLUMN name, DROP COLUMN projects, DROP COLUMN barred, DROP COLUMN parent_id, DROP COLUMN last_used_at,
    DROP COLUMN revoked_by, DROP COLUMN revocation_tx, DROP COLUMN barred_at, DROP COLUMN barred_by, DROP COLUMN bar_tx;
