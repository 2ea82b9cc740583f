-- The captured table that relation $1 is, or is a partition of, by its name of now.
select n.nspname::text, c.relname::text, t.oid
  from pg_trigger t
       join pg_class c on c.oid = t.tgrelid
       join pg_namespace n on n.oid = c.relnamespace
 where t.tgfoid = 'pyreplica.log_change'::regproc and t.tgparentid = 0
   and (t.tgrelid = $1 or t.tgrelid in (select relid from pg_partition_ancestors($1)))
