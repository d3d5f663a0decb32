-- +goose Up
-- Requests with a key for a user, by the hour. day counts from the Unix epoch, hour from the start of the day; user_id
-- is empty for no particular user. Rows of the present hour change often, but their indexed columns do not, so pages
-- keep room for new row versions.
CREATE TABLE key_usage (
    customer_id  text    COLLATE "C" NOT NULL,
    project_id   text    COLLATE "C" NOT NULL,
    day          integer NOT NULL,
    key_id       text    COLLATE "C" NOT NULL,
    user_id      text    COLLATE "C" NOT NULL,
    hour         integer NOT NULL,
    requests     bigint  NOT NULL,
    refusals     bigint  NOT NULL,
    last_used_at bigint  NOT NULL,
    PRIMARY KEY (customer_id, project_id, day, key_id, user_id, hour)
) WITH (fillfactor = 80);
-- For members, who read their own usage.
CREATE INDEX key_usage_by_user ON key_usage (customer_id, project_id, user_id, day, key_id);
CREATE INDEX key_usage_by_age ON key_usage (day);

-- The last batch that was stored from a process of a data plane, so that a repeated batch is not counted twice.
CREATE TABLE usage_reporters (
    data_plane_id text   COLLATE "C" NOT NULL,
    id            text   COLLATE "C" NOT NULL,
    batch         bigint NOT NULL,
    at            bigint NOT NULL,
    PRIMARY KEY (data_plane_id, id)
);

-- +goose Down
DROP TABLE usage_reporters, key_usage;
