-- What the master knows of the slaves of agent $1.
select name, state, to_char(state_since, 'YYYY-MM-DD HH24:MI:SSOF'), applied_position,
       to_char(applied_at, 'YYYY-MM-DD HH24:MI:SSOF'), to_char(updated_at, 'YYYY-MM-DD HH24:MI:SSOF'),
       changes_behind::bigint, bytes_behind::bigint, seconds_behind::float8,
       last_error, sqlstate, hint, to_char(error_since, 'YYYY-MM-DD HH24:MI:SSOF'), stages::text
  from pyreplica.slave_status
 where agent = $1
