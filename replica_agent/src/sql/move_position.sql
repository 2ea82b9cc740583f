-- Moves the position; batch numbers only rise.
update pyreplica_agent.position
   set timeline = $3, rank = $4, snapshot = $5::text::pg_snapshot, last_xid = $6::text::xid8,
       last_ts = $7, batch = $8, applied_at = clock_timestamp(), settled = $9
 where agent = $1 and slave = $2 and batch < $8
