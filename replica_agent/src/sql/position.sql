-- The position of slave $2 of agent $1.
select system_identifier, timeline, rank, snapshot::text as snapshot, settled, last_xid::text as last_xid,
       last_ts, batch
  from pyreplica_agent.position
 where agent = $1 and slave = $2
