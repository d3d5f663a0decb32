-- +goose Up
-- The same tables as on PostgreSQL. Times are microseconds since the Unix epoch, zero for none.
CREATE TABLE projects (
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    created_at            integer NOT NULL,
    PRIMARY KEY (customer_id, project_id)
);

CREATE TABLE project_members (
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    user_id               text    NOT NULL,
    role                  text    NOT NULL CHECK (role IN ('owner', 'member')),
    created_at            integer NOT NULL,
    updated_at            integer NOT NULL,
    PRIMARY KEY (customer_id, project_id, user_id),
    FOREIGN KEY (customer_id, project_id) REFERENCES projects
);

CREATE TABLE project_policies (
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    user_keys             text    NOT NULL,
    user_keys_by_provider text    NOT NULL,
    on_bad_key            text    NOT NULL,
    updated_at            integer NOT NULL,
    updated_by            text    NOT NULL,
    PRIMARY KEY (customer_id, project_id),
    FOREIGN KEY (customer_id, project_id) REFERENCES projects
);

-- seq says which of two keys is newer without trusting a clock. user_id is empty for a project-level key.
CREATE TABLE ai_keys (
    seq                   integer PRIMARY KEY,
    id                    text    NOT NULL UNIQUE,
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    user_id               text    NOT NULL,
    provider              text    NOT NULL,
    name                  text    NOT NULL,
    display_suffix        text    NOT NULL,
    version               integer NOT NULL,
    envelope              blob    NOT NULL,
    kek_id                text    NOT NULL,
    created_at            integer NOT NULL,
    created_by            text    NOT NULL,
    revoked_at            integer NOT NULL DEFAULT 0,
    revoked_by            text    NOT NULL DEFAULT ''
);
-- For lists: a page costs the same however many keys other projects and members have.
CREATE INDEX ai_keys_by_scope ON ai_keys (customer_id, project_id, user_id, id);
-- For the resolution. It also keeps the names of active keys unique.
CREATE UNIQUE INDEX ai_keys_active_name ON ai_keys (customer_id, project_id, user_id, provider, name) WHERE revoked_at = 0;

CREATE TABLE api_tokens (
    id                    text    NOT NULL PRIMARY KEY,
    hash                  blob    NOT NULL,
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    user_id               text    NOT NULL,
    created_at            integer NOT NULL,
    expires_at            integer NOT NULL DEFAULT 0,
    revoked_at            integer NOT NULL DEFAULT 0
);
CREATE INDEX api_tokens_by_project ON api_tokens (customer_id, project_id, id);

CREATE TABLE idempotency_records (
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    user_id               text    NOT NULL,
    key_hash              blob    NOT NULL,
    fingerprint           blob    NOT NULL,
    key_id                text    NOT NULL,
    created_at            integer NOT NULL,
    PRIMARY KEY (customer_id, project_id, user_id, key_hash)
);
CREATE INDEX idempotency_records_by_age ON idempotency_records (created_at);

-- scope_user_id is the user whose own key the event is about, or empty. It decides who may read the event.
CREATE TABLE events (
    customer_id           text    NOT NULL,
    project_id            text    NOT NULL,
    scope_user_id         text    NOT NULL,
    id                    text    NOT NULL,
    type                  text    NOT NULL,
    outcome               text    NOT NULL,
    at                    integer NOT NULL,
    actor_user_id         text    NOT NULL,
    actor_method          text    NOT NULL,
    actor_token_id        text    NOT NULL,
    key_id                text    NOT NULL,
    token_id              text    NOT NULL,
    provider              text    NOT NULL,
    member_id             text    NOT NULL,
    role                  text    NOT NULL,
    source_ip             text    NOT NULL,
    request_id            text    NOT NULL,
    PRIMARY KEY (customer_id, project_id, scope_user_id, id)
) WITHOUT ROWID;

-- A single sealed value that only the right key-encryption key opens.
CREATE TABLE canaries (
    id                    integer PRIMARY KEY CHECK (id = 1),
    envelope              blob    NOT NULL,
    kek_id                text    NOT NULL,
    created_at            integer NOT NULL
);

-- +goose Down
DROP TABLE canaries;
DROP TABLE events;
DROP TABLE idempotency_records;
DROP TABLE api_tokens;
DROP TABLE ai_keys;
DROP TABLE project_policies;
DROP TABLE project_members;
DROP TABLE projects;
