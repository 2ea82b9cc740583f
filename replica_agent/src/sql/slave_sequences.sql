-- The slave's sequence for each of the master's, in their order: that which column $5 of table $3.$4 owns, or else $1.$2;
-- NULL where there is none. What our role lacks on it: to read it is needed so that it is never set back.
select k.oid, n.nspname::text as schema_name, k.relname::text as sequence_name,
       s.seqstart as start, s.seqincrement as increment, s.seqmin as min, s.seqmax as max, s.seqcycle as cycle,
       array(select p from unnest(array['SELECT', 'UPDATE']) p
              where not has_sequence_privilege(k.oid, p) or not has_schema_privilege(n.oid, 'USAGE')) as lacks
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
       with ordinality m(schema_name, sequence_name, owner_schema, owner_table, owner_column, place)
  left join lateral (
       select d.objid
         from pg_namespace o
         join pg_class t on t.relnamespace = o.oid and t.relname = m.owner_table
         join pg_attribute a on a.attrelid = t.oid and a.attname = m.owner_column and not a.attisdropped
         join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid and d.refobjsubid = a.attnum
                         and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
         join pg_sequence q on q.seqrelid = d.objid
        where o.nspname = m.owner_schema
        limit 1) owned on true
  left join pg_namespace ns on ns.nspname = m.schema_name
  left join pg_class named on named.relnamespace = ns.oid and named.relname = m.sequence_name and named.relkind = 'S'
  left join pg_class k on k.oid = coalesce(owned.objid, named.oid)
  left join pg_namespace n on n.oid = k.relnamespace
  left join pg_sequence s on s.seqrelid = k.oid
 order by m.place
