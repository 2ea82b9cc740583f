-- A position from which the slave begins anew. Batch numbers go on: an atomic group may still know the last one.
insert into pyreplica_agent.position as p
       (agent, slave, system_identifier, timeline, rank, snapshot, last_xid, last_ts, batch, applied_at)
values ($1, $2, $3, $4, $5, $6::text::pg_snapshot, $7::text::xid8, $8::text::timestamptz, 0, clock_timestamp())
    on conflict on constraint position_pkey do update
   set system_identifier = excluded.system_identifier, timeline = excluded.timeline,
       rank = excluded.rank, snapshot = excluded.snapshot,
       last_xid = excluded.last_xid, last_ts = excluded.last_ts,
       batch = p.batch + 1, applied_at = excluded.applied_at
