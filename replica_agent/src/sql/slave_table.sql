-- Table $1.$2 as the slave has it, a row for each column. equality: the operator by which the slave's own unique index
-- tells keys apart (citext and other user types bring theirs), else the type's default, qualified by its schema.
-- Our own trigger, where the slave forwards, does not mind many rows at once.
-- fires_for_nothing: what fires in this session for a statement, also for one that finds no row.
select c.oid, c.relkind::text as relkind, a.attname::text as name,
       c.relkind not in ('r', 'p')
       or exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid
                   where g.tgrelid in (select c.oid union all select relid from pg_partition_tree(c.oid))
                     and not g.tgisinternal and g.tgenabled in ('A', 'R')
                     and p.pronamespace is distinct from to_regnamespace('pyreplica'))
       or exists (select from pg_rewrite w where w.ev_class = c.oid and w.ev_enabled in ('A', 'R')) as one_by_one,
       c.relkind not in ('r', 'p')
       or exists (select from pg_trigger g
                   where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled = any(fires.enabled)
                     and g.tgtype & 1 = 0 and g.tgtype & 28 <> 0)
       or exists (select from pg_rewrite w
                   where w.ev_class = c.oid and w.ev_type <> '1' and w.ev_enabled = any(fires.enabled)) as fires_for_nothing,
       format_type(a.atttypid, -1) as type,
       format_type(a.atttypid, a.atttypmod) as full_type,
       t.oid as own_type, b.oid as base_type, b.typtype = 'e' as is_enum,
       a.attidentity = 'a' as always_identity,
       a.attgenerated <> '' as generated,
       has_column_privilege(c.oid, a.attnum, 'UPDATE')
       and exists (select
                     from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
                    where i.indrelid = c.oid and i.indkey[0] = a.attnum and not i.indisunique and m.amname = 'btree')
           as leads_index,
       (select format('operator(%I.%s)', s.nspname, o.oprname)
          from (select k.opclass, i.indisprimary::int + 1 as preference
                  from pg_index i,
                       unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k(attnum, opclass, place)
                 where i.indrelid = c.oid and i.indisunique and k.attnum = a.attnum and k.place <= i.indnkeyatts
                union all
                select oc.oid, 0
                  from pg_opclass oc join pg_am m on m.oid = oc.opcmethod
                 where oc.opcdefault and m.amname = 'btree'
                   and oc.opcintype = (select coalesce(nullif(t.typbasetype, 0), t.oid)
                                         from pg_type t where t.oid = a.atttypid)) p
               join pg_opclass oc on oc.oid = p.opclass
               join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amopstrategy = 3
                              and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype
               join pg_operator o on o.oid = ao.amopopr
               join pg_namespace s on s.oid = o.oprnamespace
         order by p.preference desc
         limit 1) as equality
  from (select case current_setting('session_replication_role')
                    when 'replica' then '{A,R}' else '{A,O}' end::"char"[] as enabled) fires
       cross join pg_class c
       join pg_namespace n on n.oid = c.relnamespace
       join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
       join pg_type t on t.oid = a.atttypid
       join pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
 where n.nspname = $1 and c.relname = $2
 order by a.attnum
