-- What the database user of "aikeysd serve" needs, and no more: it adds events, system events and records of fetches and reads them, and can
-- neither change nor delete one. Run this as the owner of the tables, and again after each migration.
BEGIN;
GRANT USAGE ON SCHEMA {schema} TO {user};
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user};
REVOKE UPDATE, DELETE ON {schema}.events, {schema}.system_events, {schema}.fetches FROM {user};
REVOKE INSERT, UPDATE, DELETE ON {schema}.goose_db_version FROM {user};
COMMIT;
