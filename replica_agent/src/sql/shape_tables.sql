-- Those of the tables $1.$2 that exist, and which of the rights $3 the session's role lacks.
select n.nspname::text, c.relname::text, c.relkind, c.relpersistence = 'u', row_security_active(c.oid),
       array(select r from unnest($3::text[]) r where not has_table_privilege(c.oid, r))
       || case when has_schema_privilege(n.oid, 'USAGE') then '{}'::text[] else array['USAGE ON SCHEMA'] end
  from unnest($1::text[], $2::text[]) t(schema_name, table_name)
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
