-- Triggers and rules of the tables $1.$2, and triggers of their partitions, but for our own, whose state is one of the letters $3.
select k.kind, k.name, c.oid::regclass::text
  from unnest($1::text[], $2::text[]) t(schema_name, table_name)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join lateral (select 'TRIGGER' as kind, quote_ident(tgname) as name
                  from pg_trigger
                       join pg_proc p on p.oid = tgfoid
                 where tgrelid in (select c.oid union all select relid from pg_partition_tree(c.oid)) and tgparentid = 0
                   and not tgisinternal and strpos($3, tgenabled::text) > 0
                   and p.pronamespace is distinct from to_regnamespace('pyreplica')
                union all
                select 'RULE', quote_ident(rulename)
                  from pg_rewrite
                 where ev_class = c.oid and strpos($3, ev_enabled::text) > 0) k on true
 order by 3, 1, 2
