-- The master, and a position that holds everything visible now. One snapshot serves the whole query.
select (select system_identifier::text from pg_control_system()),
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int as timeline,
       coalesce(l.id, 0)::bigint as rank, pg_current_snapshot()::text as snapshot,
       l.xid::text as last_xid, l.ts::text as last_ts
  from (values (1)) one
  left join (select id, xid, ts from pyreplica.log where final order by id desc limit 1) l on true
