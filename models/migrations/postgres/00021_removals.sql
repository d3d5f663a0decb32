-- +goose Up
-- Removals of members. A removal suspends the member's own keys, which have its id as removal_id, and the API keys in
-- tokens, a list of ids with a space before and after each. tx is the tx of its member.removed event. A removal can be
-- undone until restore_until; then the keys are destroyed.
CREATE TABLE member_removals (
    id            text   COLLATE "C" PRIMARY KEY,
    customer_id   text   COLLATE "C" NOT NULL,
    project_id    text   COLLATE "C" NOT NULL,
    user_id       text   COLLATE "C" NOT NULL,
    role          text   NOT NULL,
    removed_at    bigint NOT NULL,
    removed_by    text   COLLATE "C" NOT NULL,
    tx            bigint NOT NULL,
    tokens        text   COLLATE "C" NOT NULL,
    restore_until bigint NOT NULL,
    closed_at     bigint NOT NULL DEFAULT 0
);
CREATE INDEX member_removals_open ON member_removals (restore_until) WHERE closed_at = 0;
CREATE INDEX member_removals_by_user ON member_removals (customer_id, project_id, user_id, id);
ALTER TABLE ai_keys ADD COLUMN removal_id text COLLATE "C" NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE ai_keys DROP COLUMN removal_id;
DROP TABLE member_removals;
