-- +goose Up
-- Tests for data planes to run: of a version of a stored key, or of a secret that no key has yet. For such a secret,
-- key_id is empty, and the envelope is bound to the test's own id. The data plane that claims a test gets the envelope,
-- and the row loses it. claimed_by is empty until then, and verdict is empty until the data plane has answered. The
-- request that waits for the test until wait_until deletes the row. If it does not, other replicas delete the row a
-- minute later.
CREATE TABLE key_tests (
    id          text    PRIMARY KEY,
    customer_id text    NOT NULL,
    project_id  text    NOT NULL,
    user_id     text    NOT NULL,
    token_id    text    NOT NULL,
    provider    text    NOT NULL,
    key_id      text    NOT NULL,
    version     integer NOT NULL,
    envelope    blob    NOT NULL,
    wait_until  integer NOT NULL,
    claimed_by  text    NOT NULL DEFAULT '',
    claimed_at  integer NOT NULL DEFAULT 0,
    verdict     text    NOT NULL DEFAULT '',
    reason      text    NOT NULL DEFAULT ''
) WITHOUT ROWID;

-- Whether the data plane of the stream tests keys.
ALTER TABLE streams ADD COLUMN tests_keys boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE streams DROP COLUMN tests_keys;
DROP TABLE key_tests;
