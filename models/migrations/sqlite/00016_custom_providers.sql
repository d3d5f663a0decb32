-- +goose Up
-- Customers' own servers, which operators add. A row never changes. The envelopes of its keys are bound to digest.
CREATE TABLE custom_providers (
    customer_id text    NOT NULL,
    slug        text    NOT NULL,
    name        text    NOT NULL,
    base_url    text    NOT NULL,
    dialect     text    NOT NULL,
    auth        text    NOT NULL,
    header      text    NOT NULL,
    digest      text    NOT NULL,
    created_at  integer NOT NULL,
    created_by  text    NOT NULL,
    PRIMARY KEY (customer_id, slug)
) WITHOUT ROWID;
-- The digest of the custom provider that the key was sealed for; empty for a provider of the catalogue.
ALTER TABLE ai_keys ADD COLUMN destination text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN destination;
DROP TABLE custom_providers;
