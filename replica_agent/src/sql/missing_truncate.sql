-- Captured tables and partitions without the trigger for TRUNCATE (statement triggers are not inherited), where it is
-- to be logged.
select distinct c.tgrelid::regclass::text
  from pg_trigger c
 where c.tgfoid = 'pyreplica.log_change'::regproc
   and not exists (select from pg_trigger t
                    where t.tgrelid = c.tgrelid and t.tgfoid = 'pyreplica.log_truncate'::regproc)
   and exists (select from pyreplica.captured_part p
                where 'truncate' = any (p.operations)
                  and (p.relation = c.tgrelid or p.relation in (select relid from pg_partition_ancestors(c.tgrelid))))
 order by 1
