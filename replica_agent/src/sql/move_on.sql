-- Moves the position as move_position.sql does, from the batch before; fails unless it stands there.
with moved as (
    update pyreplica_agent.position
       set timeline = $3, rank = $4, snapshot = $5::text::pg_snapshot, last_xid = $6::text::xid8,
           last_ts = $7, batch = $8::bigint, applied_at = clock_timestamp()
     where agent = $1 and slave = $2 and batch = $8::bigint - 1
     returning 1
)
select case when count(*) <> 1
            then cast(count(*) || ' positions are where PyReplica expects one, which now looks again' as int)
       end
  from moved
