-- The slave has its new position.
update pyreplica.slave
   set rank = $3, snapshot = $4::text::pg_snapshot, updated_at = clock_timestamp()
 where agent = $1 and name = $2
