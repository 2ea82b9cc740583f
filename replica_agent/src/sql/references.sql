-- Which of the tables $1 (names, quoted and qualified) refer to which others of them, both by their places from 0 on, and
-- whether that can wait for the end of a transaction.
with t as (
    select place - 1 as place, to_regclass(name) as relation
      from unnest($1::text[]) with ordinality n(name, place)
)
select a.place, b.place, bool_and(k.condeferrable)
  from t a
  join pg_constraint k on k.conrelid = a.relation and k.contype = 'f'
  join t b on b.relation = k.confrelid and b.relation <> a.relation
 group by a.place, b.place
