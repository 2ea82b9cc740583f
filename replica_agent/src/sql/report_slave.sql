-- What the agent knows of slave $2: state $3, position $4, $5, $6 (NULL: as before) and $11, error $7, $8, $9,
-- stages $10 (NULL: as before).
-- A slave that was given up stays so until it is registered anew. An error stands until the slave has moved on: that it
-- is tried again is not news.
insert into pyreplica.slave as s
       (agent, name, state, rank, snapshot, applied_ts, last_error, sqlstate, hint, error_since, stages, settled)
values ($1, $2, $3, $4, $5::text::pg_snapshot, $6::timestamptz, $7::text, $8, $9,
        case when $7::text is not null then clock_timestamp() end, $10::text::jsonb,
        coalesce($11::bigint, 0))
on conflict (agent, name) do update
   set (state, state_since, last_error, sqlstate, hint, error_since) =
       (select case when k.keep then s.state else excluded.state end,
               case when k.keep or s.state = excluded.state then s.state_since else clock_timestamp() end,
               case when k.keep then s.last_error else excluded.last_error end,
               case when k.keep then s.sqlstate else excluded.sqlstate end,
               case when k.keep then s.hint else excluded.hint end,
               case when k.keep or excluded.last_error is not null
                    then coalesce(s.error_since, excluded.error_since) end
          from (select s.last_error is not null and excluded.last_error is null
                       and excluded.state in ('catching up', 'copying')
                       and coalesce(excluded.rank, s.rank) is not distinct from s.rank as keep) k),
       rank = coalesce(excluded.rank, s.rank),
       snapshot = coalesce(excluded.snapshot, s.snapshot),
       settled = case when excluded.rank is null then s.settled else excluded.settled end,
       applied_ts = coalesce(excluded.applied_ts, s.applied_ts),
       stages = coalesce(excluded.stages, s.stages),
       updated_at = clock_timestamp()
 where s.state <> 'needs copy'
