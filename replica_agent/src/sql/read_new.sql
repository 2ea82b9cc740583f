-- What was committed since the position (rank $1, settled $7) was one of all that its snapshot saw, with nothing in
-- progress up to its xmax ($8): what has drawn its rank since, at most $2 transactions, and late ones, which had begun
-- after all that the snapshot knows of and yet drawn a lower rank. The first row as in read_log.sql, for agent $3, slaves
-- $4, $5 and $6. For a reader that is in step: without limits it is half of the work for the server.
select null::bigint as rank, pg_current_snapshot()::text as snapshot, null::text as xid,
       null::text as ts, null::int as changes, null::int as chunks, null::boolean as async,
       null::text as origin, null::text as username, null::bytea as payload,
       known, given_up, case when $5 then pyreplica.disarm() end as woken, pyreplica.moved_sequences($6) as sequences, null::text as state
  from (select count(*) as known, coalesce(bool_or(state = 'needs copy'), false) as given_up
          from pyreplica.slave where agent = $3 and name = any($4)) s
union all
select id, null, xid::text, ts::text, changes, chunks, async, origin, username, payload, null, null, null, null, null
  from pyreplica.log
 where final and chunks = 1 and id > $7::bigint and id <= $1::bigint and xid >= $8::text::xid8
union all
select id, null, xid::text, ts::text, changes, chunks, async, origin, username, null, null, null, null, null, null
  from pyreplica.log
 where final is not false and chunks <> 1 and id + 0 <= $1::bigint and xid >= $8::text::xid8
union all
(select id, null, xid::text, ts::text, changes, chunks, async, origin, username,
        case when chunks = 1 then payload end, null, null, null, null, null
   from pyreplica.log
  where final and id > $1
  limit $2)
