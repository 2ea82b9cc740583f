-- The next chunks of transaction $1 after (seq $2, id $3).
select seq, id, piece, payload
  from pyreplica.log
 where chunks <> 1 and xid = $1::text::xid8 and (seq, id) > ($2, $3)
 order by seq, id
 limit $4
