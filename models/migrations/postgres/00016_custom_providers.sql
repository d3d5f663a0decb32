-- +goose Up
-- Customers' own servers, which operators add. A row never changes. The envelopes of its keys are bound to digest.
CREATE TABLE custom_providers (
    customer_id text   COLLATE "C" NOT NULL,
    slug        text   COLLATE "C" NOT NULL,
    name        text   COLLATE "C" NOT NULL,
    base_url    text   COLLATE "C" NOT NULL,
    dialect     text   COLLATE "C" NOT NULL,
    auth        text   COLLATE "C" NOT NULL,
    header      text   COLLATE "C" NOT NULL,
    digest      text   COLLATE "C" NOT NULL,
    created_at  bigint NOT NULL,
    created_by  text   COLLATE "C" NOT NULL,
    PRIMARY KEY (customer_id, slug)
);
-- The digest of the custom provider that the key was sealed for; empty for a provider of the catalogue.
ALTER TABLE ai_keys ADD COLUMN destination text COLLATE "C" NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN destination;
DROP TABLE custom_providers;
