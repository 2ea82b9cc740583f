-- How many of the transactions up to ($1, $2) the position ($3, $4) does not hold.
select count(*)
  from pyreplica.log
 where final
   and id <= $1 and pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
   and not (id <= $3 and pg_visible_in_snapshot(xid, $4::text::pg_snapshot))
