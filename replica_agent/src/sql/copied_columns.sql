-- The columns of table $1.$2 that a copy sends, in their order, each with the OID of its type (a domain's base type) when
-- the type's binary form means the same on every server, else NULL: types that PostgreSQL brings, without those that
-- are sent as the OID of something else, and xml, whose declaration names an encoding. Then the type's name, too.
select a.attname::text, k.oid, format_type(k.oid, -1)
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_type t on t.oid = a.atttypid
  left join lateral (
        select b.oid
          from pg_type b left join pg_type e on e.oid = b.typelem
         where b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
           and b.oid < 10000 and b.typsend <> 0 and b.typreceive <> 0
           and b.typtype in ('b', 'r', 'm') and coalesce(e.typtype, 'b') in ('b', 'r', 'm')
           and coalesce(e.typname, b.typname) !~ '^(reg(proc|procedure|oper|operator|class|type|config|dictionary|namespace|role|collation)|xml)$'
       ) k on true
 where n.nspname = $1 and c.relname = $2
   and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
 order by a.attnum
