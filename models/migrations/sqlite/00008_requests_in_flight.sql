-- +goose Up
-- The requests in flight with a key when data planes dropped it. counted is how many of the acknowledged data planes
-- reported them, and in_flight is the sum. by_data_plane is JSON, or NULL: see Receipt.
ALTER TABLE receipts ADD COLUMN counted integer NOT NULL DEFAULT 0;
ALTER TABLE receipts ADD COLUMN in_flight integer NOT NULL DEFAULT 0;
ALTER TABLE receipts ADD COLUMN by_data_plane text;
-- forwarded_in_flight comes with forwarded, and has a line for each key: see Stream.
ALTER TABLE streams ADD COLUMN forwarded_in_flight text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE streams DROP COLUMN forwarded_in_flight;
ALTER TABLE receipts DROP COLUMN counted;
ALTER TABLE receipts DROP COLUMN in_flight;
ALTER TABLE receipts DROP COLUMN by_data_plane;
