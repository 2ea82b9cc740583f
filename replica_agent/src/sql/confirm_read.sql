-- After reading: does the log still have to keep everything for these slaves ($1 agent, $2 names)? If one was given
-- up meanwhile, what was read may have holes. $3: make durable what was visible. $4: the session has woken.
-- $5: which sequences have moved (NULL: nobody asks)? Read after the log, so they are not behind its rows.
-- state: what may yet come late. The next snapshot is taken after this.
select count(*) as known, coalesce(bool_or(state = 'needs copy'), false) as given_up,
       case when $3 then pyreplica.flush_wal() end as flushed,
       case when $4 then pyreplica.disarm() end as woken,
       pyreplica.moved_sequences($5) as sequences,
       pyreplica.arm(null) as state
  from pyreplica.slave
 where agent = $1 and name = any($2)
