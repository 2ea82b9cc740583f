-- Fails unless the tables $1 (oids) still have columns of the types $2 (an array of oids, as text, for each), and nothing
-- that has to see each change. Asked when they are locked.
select case when count(*) <> cardinality($1)
            then cast(count(*) || ' tables are as PyReplica knew them, which now looks at them again' as int)
       end
  from unnest($1::oid[], $2::text[]) known(oid, types)
       join pg_class c on c.oid = known.oid
 where c.relkind in ('r', 'p')
   and not exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
                    where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled in ('A', 'R')
                      and p.pronamespace is distinct from to_regnamespace('pyreplica'))
   and not exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_enabled in ('A', 'R'))
   and known.types = (select array_agg(a.atttypid order by a.attnum)::text
                        from pg_attribute a
                       where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
