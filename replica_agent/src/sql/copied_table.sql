-- Notes that a table has been copied and under which snapshot.
insert into pyreplica_agent.copied_table as c (agent, slave, schema_name, table_name, trigger_oid, snapshot, rows, table_oid)
values ($1, $2, $3, $4, $5, $6::text::pg_snapshot, $7, $8)
    on conflict (agent, slave, schema_name, table_name) do update
   set trigger_oid = excluded.trigger_oid, snapshot = excluded.snapshot, rows = excluded.rows,
       table_oid = excluded.table_oid,
       copied_at = clock_timestamp()
