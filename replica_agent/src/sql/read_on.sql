-- The next transactions after the rank $1, $2 of them, where none comes late and few are expected: what read_log.sql
-- gives then, for a fraction of its price, most of which is to set up a plan.
--   $3, $4       agent and slaves for whom it is read
--   $5           the session has woken
--   $6           which sequences have moved (NULL: nobody asks)?
--   $7           what is found and could be lost in a crash of the master is flushed
select null::bigint as rank, pg_current_snapshot()::text as snapshot, null::text as xid, null::timestamptz as ts,
       null::int as changes, null::int as chunks, null::boolean as async, null::text as origin, null::text as username,
       null::bytea as payload, known, given_up, case when $5 then pyreplica.disarm() end as woken,
       pyreplica.moved_sequences($6) as sequences, null::text as state,
       case when $7 then pyreplica.flush_wal() end as flushed
  from (select count(*) as known, coalesce(bool_or(state = 'needs copy'), false) as given_up
          from pyreplica.slave where agent = $3 and name = any($4)) s
union all
(select id, null, xid::text, ts, changes, chunks, async, origin, username, case when chunks = 1 then payload end,
        null, null, null, null, null, null
   from pyreplica.log
  where final and id > $1::bigint
  order by id
  limit $2::bigint)
