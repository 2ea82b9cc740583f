-- Capturing triggers, on partitions too, that do not fire for ordinary sessions.
select t.tgrelid::regclass::text, quote_ident(t.tgname),
       case when t.tgfoid = 'pyreplica.log_change'::regproc then 'changes' else 'TRUNCATEs' end
  from pg_trigger t
 where t.tgfoid in ('pyreplica.log_change'::regproc, 'pyreplica.log_truncate'::regproc)
   and t.tgenabled in ('D', 'R') and not pyreplica.is_options(t.tgargs)
 order by 1, 2
