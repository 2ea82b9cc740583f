-- The next pieces of a chunk of transaction $1: of seq $2, after id $3, up to id $4.
select id, payload
  from pyreplica.log
 where chunks <> 1 and xid = $1::text::xid8 and seq = $2::bigint and id > $3::bigint and id <= $4::bigint
 order by seq, id
 limit $5
