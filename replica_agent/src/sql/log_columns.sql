-- The columns of the tables $1.$2, in their order, as a log would introduce them: number of the table, name, OID of the type
-- (a domain's base type) when it is the same on every server, else 0, and whether a COPY may send its values in binary:
-- types that PostgreSQL brings, without those that are sent as the OID of something else, and xml, whose declaration names
-- an encoding.
select t.place, a.attname::text, case when b.oid < 10000 then b.oid else 0::oid end,
       b.oid < 10000 and b.typsend <> 0 and b.typreceive <> 0
       and b.typtype in ('b', 'r', 'm') and coalesce(e.typtype, 'b') in ('b', 'r', 'm')
       and coalesce(e.typname, b.typname) !~ '^(reg(proc|procedure|oper|operator|class|type|config|dictionary|namespace|role|collation)|xml)$'
  from unnest($1::text[], $2::text[]) with ordinality t(schema_name, table_name, place)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  join pg_type own on own.oid = a.atttypid
  join pg_type b on b.oid = coalesce(nullif(own.typbasetype, 0), own.oid)
  left join pg_type e on e.oid = b.typelem
 order by t.place, a.attnum
