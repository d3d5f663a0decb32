-- +goose Up
-- The system trail: what operators and the service's own processes did, in projects or outside of any. before and after are JSON,
-- null where there was nothing.
CREATE TABLE system_events (
    id          TEXT PRIMARY KEY NOT NULL,
    type        TEXT NOT NULL,
    at          INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    command     TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    project_id  TEXT NOT NULL,
    subject     TEXT NOT NULL,
    before      TEXT NOT NULL,
    after       TEXT NOT NULL
);
CREATE INDEX system_events_by_type ON system_events (type, id);

-- +goose Down
DROP TABLE system_events;
