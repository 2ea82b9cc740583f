-- The replicated sequences and where they stand; $1: only those of this table (quoted and qualified) and its partitions,
-- and those that no captured table owns.
select r.relation::oid as oid, r.schema_name::text, r.sequence_name::text,
       n.nspname::text as owner_schema, c.relname::text as owner_table, r.column_name::text as owner_column,
       v.state[1] as last_value, v.state[2] <> 0 as is_called,
       s.seqstart as start, s.seqincrement as increment, s.seqmin as min, s.seqmax as max, s.seqcycle as cycle
  from pyreplica.replicated_sequence r
  join pg_sequence s on s.seqrelid = r.relation
  cross join lateral (select pyreplica.sequence_state(r.relation)) v(state)
  left join pg_class c on c.oid = r.owned_by
  left join pg_namespace n on n.oid = c.relnamespace
 where v.state is not null
   and ($1::text is null or r.owned_by is null or r.owned_by = $1::text::regclass
        or r.owned_by in (select relid from pg_partition_tree($1::text::regclass)))
 order by r.schema_name collate "C", r.sequence_name collate "C"
