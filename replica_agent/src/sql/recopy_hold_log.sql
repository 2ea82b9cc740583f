-- From here on the whole log is kept for slave $2 of agent $1, until it has its new position.
insert into pyreplica.slave as s (agent, name, state)
values ($1, $2, 'copying')
    on conflict on constraint slave_pkey do update
   set state = 'copying', state_since = clock_timestamp(), updated_at = clock_timestamp(),
       rank = null, snapshot = null, applied_ts = null,
       last_error = null, sqlstate = null, hint = null, error_since = null
