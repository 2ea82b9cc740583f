-- Who the master is, and where its log stands; one statement, so one snapshot.
select (select system_identifier::text from pg_control_system()) as system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline,
       pg_current_snapshot()::text as snapshot,
       h.rank as horizon_rank, h.xid::text as horizon_xid,
       l.id as last_rank, l.xid::text as last_xid
  from pyreplica.horizon h
       left join (select id, xid from pyreplica.log where final order by id desc limit 1) l on true
