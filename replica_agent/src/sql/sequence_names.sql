-- What the replicated sequences $1 (oids) are called, and which columns own them.
select r.relation::oid as oid, r.schema_name::text, r.sequence_name::text,
       n.nspname::text as owner_schema, c.relname::text as owner_table, r.column_name::text as owner_column
  from pyreplica.replicated_sequence r
  left join pg_class c on c.oid = r.owned_by
  left join pg_namespace n on n.oid = c.relnamespace
 where r.relation = any($1::oid[])
