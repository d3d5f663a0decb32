-- +goose Up
-- How many requests were in flight with a key when data planes dropped it. counted is how many of acknowledged said so, in_flight
-- what they add up to; by_data_plane is JSON, NULL when there is none: see Receipt.
ALTER TABLE receipts ADD COLUMN counted integer NOT NULL DEFAULT 0;
ALTER TABLE receipts ADD COLUMN in_flight integer NOT NULL DEFAULT 0;
ALTER TABLE receipts ADD COLUMN by_data_plane text;
-- What comes with forwarded: a line for each key, see Stream.
ALTER TABLE streams ADD COLUMN forwarded_in_flight text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE streams DROP COLUMN forwarded_in_flight;
ALTER TABLE receipts DROP COLUMN counted;
ALTER TABLE receipts DROP COLUMN in_flight;
ALTER TABLE receipts DROP COLUMN by_data_plane;
