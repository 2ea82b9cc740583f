-- From now on the log keeps what this slave has not applied.
insert into pyreplica.slave (agent, name, state, rank, snapshot, applied_ts, settled)
values ($1, $2, 'catching up', $3, $4::text::pg_snapshot, $5, $6)
on conflict (agent, name) do update
   set state = excluded.state, state_since = clock_timestamp(), rank = excluded.rank, snapshot = excluded.snapshot,
       settled = excluded.settled, applied_ts = excluded.applied_ts, updated_at = clock_timestamp(),
       last_error = null, sqlstate = null, hint = null, error_since = null
