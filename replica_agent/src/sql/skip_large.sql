-- The end of a chunk of transaction $1 that was read up to (seq $2, id $3): its last piece, and how many were not read.
with last as (
    select id
      from pyreplica.log
     where chunks <> 1 and xid = $1::text::xid8 and seq = $2::bigint and id > $3::bigint and piece = 3
     order by id
     limit 1)
select last.id,
       (select count(*) from pyreplica.log l
         where l.chunks <> 1 and l.xid = $1::text::xid8 and l.seq = $2::bigint and l.id > $3::bigint and l.id <= last.id)
  from last
