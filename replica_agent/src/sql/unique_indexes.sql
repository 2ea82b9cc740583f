-- What keeps the rows of table $1 apart, a row for each unique index and exclusion constraint: its expressions, the
-- operators by which two rows collide, whether NULL collides with NULL, and the rows that it is about.
select array(select pg_get_indexdef(i.indexrelid, k, false)
               from generate_series(1, i.indnkeyatts) k order by k) as expressions,
       array(select format('operator(%I.%s)', n.nspname, o.oprname)
               from generate_series(1, i.indnkeyatts) k
                    join pg_operator o on o.oid = coalesce(
                        (select conexclop[k] from pg_constraint where conindid = i.indexrelid and contype = 'x'),
                        (select ao.amopopr
                           from pg_opclass oc
                                join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amopstrategy = 3
                                               and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype
                          where oc.oid = i.indclass[k - 1]))
                    join pg_namespace n on n.oid = o.oprnamespace
              order by k) as operators,
       -- Servers before 15 have no such column.
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) as nulls_collide,
       coalesce(pg_get_expr(i.indpred, i.indrelid), 'true') as predicate
  from pg_index i
 where i.indrelid = $1 and (i.indisunique or i.indisexclusion) and i.indislive
 order by i.indisprimary desc, i.indexrelid
