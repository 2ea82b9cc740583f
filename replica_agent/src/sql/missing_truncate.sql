-- Captured tables and partitions without the trigger for TRUNCATE (statement triggers are not inherited).
select distinct c.tgrelid::regclass::text
  from pg_trigger c
 where c.tgfoid = 'pyreplica.log_change'::regproc
   and not exists (select from pg_trigger t
                    where t.tgrelid = c.tgrelid and t.tgfoid = 'pyreplica.log_truncate'::regproc)
 order by 1
