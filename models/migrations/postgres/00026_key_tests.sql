-- +goose Up
-- The tests of keys that data planes are to make. One is of a stored key, by its version, or of a secret that is not a key's yet: then
-- key_id is empty, and envelope is bound to the test's own id. A data plane that claims a test gets what the envelope holds, and the row
-- loses it. claimed_by is empty until then, and verdict until the data plane has answered. The request that waits until wait_until deletes
-- the row; if it does not, others do so a minute later.
CREATE TABLE key_tests (
    id          text    COLLATE "C" PRIMARY KEY,
    customer_id text    COLLATE "C" NOT NULL,
    project_id  text    COLLATE "C" NOT NULL,
    user_id     text    COLLATE "C" NOT NULL,
    token_id    text    COLLATE "C" NOT NULL,
    provider    text    COLLATE "C" NOT NULL,
    key_id      text    COLLATE "C" NOT NULL,
    version     integer NOT NULL,
    envelope    bytea   NOT NULL,
    wait_until  bigint  NOT NULL,
    claimed_by  text    COLLATE "C" NOT NULL DEFAULT '',
    claimed_at  bigint  NOT NULL DEFAULT 0,
    verdict     text    NOT NULL DEFAULT '',
    reason      text    NOT NULL DEFAULT ''
);

-- Whether the data plane of the stream tests keys.
ALTER TABLE streams ADD COLUMN tests_keys boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE streams DROP COLUMN tests_keys;
DROP TABLE key_tests;
