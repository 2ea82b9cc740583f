-- The first position of a slave.
insert into pyreplica_agent.position
       (agent, slave, system_identifier, timeline, rank, snapshot, last_xid, last_ts, batch, applied_at, settled)
values ($1, $2, $3, $4, $5, $6::text::pg_snapshot, $7::text::xid8, $8, 0, clock_timestamp(), $9)
