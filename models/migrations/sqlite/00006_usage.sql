-- +goose Up
-- Requests with a key for a user, by the hour. day counts from the Unix epoch, hour from the start of the day; user_id is empty for
-- no particular user.
CREATE TABLE key_usage (
    customer_id  text    NOT NULL,
    project_id   text    NOT NULL,
    day          integer NOT NULL,
    key_id       text    NOT NULL,
    user_id      text    NOT NULL,
    hour         integer NOT NULL,
    requests     integer NOT NULL,
    refusals     integer NOT NULL,
    last_used_at integer NOT NULL,
    PRIMARY KEY (customer_id, project_id, day, key_id, user_id, hour)
) WITHOUT ROWID;
-- For members, who read their own usage.
CREATE INDEX key_usage_by_user ON key_usage (customer_id, project_id, user_id, day, key_id);
CREATE INDEX key_usage_by_age ON key_usage (day);

-- The last batch that was stored from a process of a data plane, so that a repeated batch is not counted twice.
CREATE TABLE usage_reporters (
    data_plane_id text    NOT NULL,
    id            text    NOT NULL,
    batch         integer NOT NULL,
    at            integer NOT NULL,
    PRIMARY KEY (data_plane_id, id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE usage_reporters;
DROP TABLE key_usage;
