-- Which of the tables $1 (names, quoted and qualified) refer to which of them, both by their places from 0 on, and whether
-- that can wait for the end of a transaction. What a partition refers to, or what refers to it, is its table's too.
with recursive t (place, relation, partitioned) as (
    select place - 1, c.oid, c.relkind = 'p'
      from unnest($1::text[]) with ordinality n(name, place)
      join pg_class c on c.oid = to_regclass(name)
    union all
    select t.place, c.oid, c.relkind = 'p'
      from t
      join pg_inherits i on i.inhparent = t.relation
      join pg_class c on c.oid = i.inhrelid
     where t.partitioned
)
select a.place, b.place, bool_and(k.condeferrable)
  from t a
  join pg_constraint k on k.conrelid = a.relation and k.contype = 'f'
  join t b on b.relation = k.confrelid
 group by a.place, b.place
