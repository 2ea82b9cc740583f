-- The captured tables, and what of them; their capturing triggers tell a table that was removed and added again, the
-- oids (of the table and its partitions) one from another that had its name.
select r.schema_name::text, r.table_name::text, p.trigger_oid, r.key_columns::text[], r.partitioned,
       r.columns::text[], case when p.filter_over is not null then pyreplica.copy_condition(r.relation) end, p.filter_over,
       r.operations, r.whole_rows,
       r.relation::oid || array(select relid::oid from pg_partition_tree(r.relation)) as oids
  from pyreplica.replicated_table r
  join pyreplica.captured_part p on p.relation = r.relation
 order by r.schema_name collate "C", r.table_name collate "C"
