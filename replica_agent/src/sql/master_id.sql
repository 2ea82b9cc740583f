-- Which server this is, and on which timeline.
select (select system_identifier::text from pg_control_system()) as system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline
