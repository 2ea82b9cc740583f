-- The next transactions after the position (rank $1, snapshot $2, settled $3), as one statement: all of
-- it is read under the one snapshot that the first row names.
--   $4, $5, $6   limits: transactions, changes, bytes; the first transaction beyond them still comes
--   $7, $8       rank and snapshot to stop at, or NULL
--   $9, $10      agent and slaves for whom it is read
--   $11          the session has woken
--   $12          which sequences have moved (NULL: nobody asks)? They are read after the snapshot was taken, so they
--                are not behind the rows.
--   $13          what is found and could be lost in a crash of the master is flushed
-- The first row also tells whether the log still has to keep everything for these slaves; if one was given up, what
-- follows may have holes. A prepared statement locks its tables before it takes its snapshot, so rotation has emptied
-- nothing of which the snapshot does not see that it was given up before. And state: what may yet come late; the next
-- snapshot is taken after this.
-- Snapshots are parsed once, in a sub-select.
select null::bigint as rank, coalesce($8::text, pg_current_snapshot()::text) as snapshot, null::text as xid,
       null::timestamptz as ts, null::int as changes, null::int as chunks, null::boolean as async,
       null::text as origin, null::text as username, null::bytea as payload,
       known, given_up, case when $11 then pyreplica.disarm() end as woken, pyreplica.moved_sequences($12) as sequences,
       pyreplica.arm(null) as state, case when $13 then pyreplica.flush_wal() end as flushed
  from (select count(*) as known, coalesce(bool_or(state = 'needs copy'), false) as given_up
          from pyreplica.slave where agent = $9 and name = any($10)) s
union all
-- Late, of one chunk: what the snapshot does not see above the rank up to which all of them had ended.
select id, null, xid::text, ts, changes, chunks, async, origin, username, payload, null, null, null, null, null, null
  from pyreplica.log
 where final and chunks = 1
   and id > $3::bigint and id <= $1::bigint
   and $8::text is distinct from $2::text
   and not pg_visible_in_snapshot(xid, (select $2::text::pg_snapshot))
   and ($8::text is null or pg_visible_in_snapshot(xid, (select $8::text::pg_snapshot)))
union all
-- Late, of several chunks, which are found by xid: in progress when the position was taken. Of these only those that
-- have ended since are looked up. "is not false" and "+ 0" keep the planner from walking all ranks up to $1 instead.
select id, null, xid::text, ts, changes, chunks, async, origin, username, null, null, null, null, null, null, null
  from pyreplica.log
 where final is not false and chunks <> 1
   and id + 0 <= $1::bigint
   and xid = any(array(select x from pg_snapshot_xip($2::text::pg_snapshot) x
                        where pg_visible_in_snapshot(x, coalesce($8::text::pg_snapshot, pg_current_snapshot()))))
union all
-- Likewise: began after the position was taken, yet drew its rank before the position's.
select id, null, xid::text, ts, changes, chunks, async, origin, username, null, null, null, null, null, null, null
  from pyreplica.log
 where final is not false and chunks <> 1
   and id + 0 <= $1::bigint
   and xid >= pg_snapshot_xmax((select $2::text::pg_snapshot))
   and ($8::text is null or pg_visible_in_snapshot(xid, (select $8::text::pg_snapshot)))
union all
select id, null, xid::text, ts, changes, chunks, async, origin, username,
       case when chunks = 1 then payload end, null, null, null, null, null, null
  from (select *, sum(changes) over w - changes as changes_before, sum(bytes) over w - bytes as bytes_before
          from (select *, case when chunks = 1 then octet_length(payload)::bigint else chunks * 7900::bigint end as bytes
                  from pyreplica.log
                 where final
                   and id > $1::bigint
                   and id <= coalesce($7::bigint, 9223372036854775807)
                   and ($8::text is null or pg_visible_in_snapshot(xid, (select $8::text::pg_snapshot)))) l
        window w as (order by id rows unbounded preceding)
         order by id
         limit $4::bigint) l
 where changes_before < $5::bigint and bytes_before < $6::bigint
