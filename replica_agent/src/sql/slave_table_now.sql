-- The tables $1 (oids) as they are now, to be compared with what was known of them. Asked when they are locked.
select c.oid,
       c.relkind not in ('r', 'p')
       or exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
                   where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled in ('A', 'R')
                     and p.pronamespace is distinct from to_regnamespace('pyreplica'))
       or exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_enabled in ('A', 'R')) as one_by_one,
       (select array_agg(a.atttypid order by a.attnum)
          from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as types
  from pg_class c
 where c.oid = any($1::oid[])
