-- +goose Up
-- For the last revoked key of a scope and provider, which explains why none serves.
CREATE INDEX ai_keys_revoked ON ai_keys (customer_id, project_id, user_id, provider, revoked_at) WHERE revoked_at <> 0;

-- +goose Down
DROP INDEX ai_keys_revoked;
