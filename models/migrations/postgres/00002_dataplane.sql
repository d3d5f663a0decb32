-- +goose Up
-- tx is the number of the transaction that wrote the event. It shows whether a snapshot includes the event.
ALTER TABLE events ADD COLUMN tx bigint NOT NULL DEFAULT 0;
CREATE INDEX events_by_tx ON events (tx);

-- revocation_tx is the tx of the key's key.revoked event; zero for keys that were revoked before there were data planes.
ALTER TABLE ai_keys
    ADD COLUMN revocation_tx       bigint  NOT NULL DEFAULT 0,
    ADD COLUMN last_used_at        bigint  NOT NULL DEFAULT 0,
    ADD COLUMN last_failure_at     bigint  NOT NULL DEFAULT 0,
    ADD COLUMN last_failure_status integer NOT NULL DEFAULT 0;

-- For the newest active key of a scope and provider, which serves.
CREATE INDEX ai_keys_serving ON ai_keys (customer_id, project_id, user_id, provider, seq) WHERE revoked_at = 0;

-- customers is a JSON list of the customers that a data plane may serve; 'null' means all of them.
CREATE TABLE data_planes (
    id         text   COLLATE "C" PRIMARY KEY,
    name       text   COLLATE "C" NOT NULL,
    hash       bytea  NOT NULL,
    customers  text   NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL DEFAULT 0,
    revoked_at bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX data_planes_active_name ON data_planes (name) WHERE revoked_at = 0;

-- Every fetch, allowed or refused.
CREATE TABLE fetches (
    id            bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            bigint  NOT NULL,
    data_plane_id text    COLLATE "C" NOT NULL,
    customer_id   text    COLLATE "C" NOT NULL,
    project_id    text    COLLATE "C" NOT NULL,
    user_id       text    COLLATE "C" NOT NULL,
    token_id      text    COLLATE "C" NOT NULL,
    provider      text    NOT NULL,
    key_id        text    NOT NULL,
    version       integer NOT NULL,
    decision      text    NOT NULL,
    reason        text    NOT NULL,
    request_id    text    NOT NULL
);
CREATE INDEX fetches_by_project ON fetches (customer_id, project_id, id);

-- The streams of data planes. A stream is kept while its lease may run, a little longer than the connection. position
-- is where the stream began, and settled is the xmin of position: the data plane knows of every tx below it. forwarded
-- is a position that was acknowledged at another replica.
CREATE TABLE streams (
    id            text    COLLATE "C" PRIMARY KEY,
    data_plane_id text    COLLATE "C" NOT NULL REFERENCES data_planes,
    replica_id    text    COLLATE "C" NOT NULL,
    max_stale_ms  integer NOT NULL,
    settled       bigint  NOT NULL,
    position      text    NOT NULL,
    forwarded     text    NOT NULL DEFAULT ''
);
CREATE INDEX streams_by_replica ON streams (replica_id);
CREATE INDEX streams_forwarded ON streams (replica_id) WHERE forwarded <> '';

-- beat increases while a replica that has streams is alive.
CREATE TABLE replicas (
    id   text   COLLATE "C" PRIMARY KEY,
    beat bigint NOT NULL
);

-- The acknowledgements of one revocation by the data planes at one replica.
CREATE TABLE receipts (
    key_id       text    COLLATE "C" NOT NULL,
    replica_id   text    COLLATE "C" NOT NULL,
    data_planes  integer NOT NULL,
    acknowledged integer NOT NULL,
    slowest_us   bigint  NOT NULL,
    PRIMARY KEY (key_id, replica_id)
);

-- +goose Down
DROP TABLE receipts, replicas, streams, fetches, data_planes;
ALTER TABLE ai_keys DROP COLUMN revocation_tx, DROP COLUMN last_used_at, DROP COLUMN last_failure_at, DROP COLUMN last_failure_status;
DROP INDEX ai_keys_serving;
DROP INDEX events_by_tx;
ALTER TABLE events DROP COLUMN tx;
