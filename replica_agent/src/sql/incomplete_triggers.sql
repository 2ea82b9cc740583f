-- Captured tables whose triggers of a filter are not all there; one for TRUNCATE is looked for by itself.
select r.relation::text
  from pyreplica.replicated_table r join pyreplica.captured_part p on p.relation = r.relation
 where not p.complete
   and exists (select from pg_trigger t where t.tgrelid = r.relation and t.tgfoid = 'pyreplica.log_truncate'::regproc)
       = ('truncate' = any (p.operations))
 order by 1
