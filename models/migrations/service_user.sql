-- Grants the database user of "aikeysd serve" the rights that it needs, and no others. It can read and add events, system
-- events and records of fetches, but not change or delete them. Run this as the owner of the tables, after each migration.
BEGIN;
GRANT USAGE ON SCHEMA {schema} TO {user};
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user};
REVOKE UPDATE, DELETE ON {schema}.events, {schema}.system_events, {schema}.fetches FROM {user};
REVOKE INSERT, UPDATE, DELETE ON {schema}.goose_db_version FROM {user};
COMMIT;
