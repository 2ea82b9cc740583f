-- The captured tables; their capturing triggers tell a table that was removed and added again.
select r.schema_name::text, r.table_name::text, t.oid, r.key_columns::text[], r.partitioned,
       coalesce((to_jsonb(r) ->> 'whole_rows')::boolean, false)
  from pyreplica.replicated_table r
  join pg_trigger t on t.tgrelid = r.relation and t.tgparentid = 0
                   and t.tgfoid = 'pyreplica.log_change'::regproc
 order by r.schema_name collate "C", r.table_name collate "C"
