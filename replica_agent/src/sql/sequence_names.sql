-- What the replicated sequences $1 (oids) are called, which columns own them, and how they count.
select r.relation::oid as oid, r.schema_name::text, r.sequence_name::text,
       n.nspname::text as owner_schema, c.relname::text as owner_table, r.column_name::text as owner_column,
       s.seqstart as start, s.seqincrement as increment
  from pyreplica.replicated_sequence r
  join pg_sequence s on s.seqrelid = r.relation
  left join pg_class c on c.oid = r.owned_by
  left join pg_namespace n on n.oid = c.relnamespace
 where r.relation = any($1::oid[])
