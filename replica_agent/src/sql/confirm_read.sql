-- After reading: does the log still have to keep everything for these slaves ($1 agent, $2 names)? $3: make durable what
-- was visible. $4: the session has woken.
select count(*) as known, coalesce(bool_or(state = 'needs copy'), false) as given_up,
       case when $3 then pyreplica.flush_wal() end as flushed,
       case when $4 then pyreplica.disarm() end as woken
  from pyreplica.slave
 where agent = $1 and name = any($2)
