-- +goose Up
-- The keys with the lowest serve_order of a scope serve. They share callers by weight if the newest of them has one. arranged says
-- whether anything but the key's age decides whom it serves.
ALTER TABLE ai_keys ADD COLUMN serve_order integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN weight integer NOT NULL DEFAULT 0;
ALTER TABLE ai_keys ADD COLUMN arranged boolean NOT NULL DEFAULT false;
CREATE INDEX ai_keys_arranged ON ai_keys (customer_id, project_id, provider, user_id) WHERE arranged AND (revoked_at = 0);

-- +goose Down
DROP INDEX ai_keys_arranged;
ALTER TABLE ai_keys DROP COLUMN serve_order;
ALTER TABLE ai_keys DROP COLUMN weight;
ALTER TABLE ai_keys DROP COLUMN arranged;
