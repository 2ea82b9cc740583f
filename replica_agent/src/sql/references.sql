-- Which of the tables $1 (names, quoted and qualified) refer to which others of them.
with t as (select name, to_regclass(name) as relation from unnest($1::text[]) name)
select a.name, b.name
  from t a
  join pg_constraint k on k.conrelid = a.relation and k.contype = 'f'
  join t b on b.relation = k.confrelid and b.relation <> a.relation
