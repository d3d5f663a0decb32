-- +goose Up
-- The system trail: what operators and the service's own processes did, in projects or outside of any. before and after are JSON,
-- null where there was nothing.
CREATE TABLE system_events (
    id          text   COLLATE "C" PRIMARY KEY,
    type        text   NOT NULL,
    at          bigint NOT NULL,
    actor       text   NOT NULL,
    command     text   NOT NULL,
    customer_id text   COLLATE "C" NOT NULL,
    project_id  text   COLLATE "C" NOT NULL,
    subject     text   NOT NULL,
    before      text   NOT NULL,
    after       text   NOT NULL
);
CREATE INDEX system_events_by_type ON system_events (type, id);

-- +goose Down
DROP TABLE system_events;
