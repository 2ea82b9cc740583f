-- Size of this database's own log where no slave is known to read it; no row when there is none.
select pg_size_pretty(sum(pg_relation_size(c.oid)))
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'pyreplica' and c.relname in ('log_0', 'log_1', 'log_2') and c.relkind = 'r'
   and coalesce((select pg_relation_size(s.oid) = 0
                   from pg_class s
                  where s.relnamespace = n.oid and s.relname = 'slave'), true)
having sum(pg_relation_size(c.oid)) > 0
