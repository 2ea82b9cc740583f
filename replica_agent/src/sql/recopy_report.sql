-- How the copy ended.
update pyreplica.slave
   set state = $3, state_since = clock_timestamp(), updated_at = clock_timestamp(),
       last_error = $4, sqlstate = $5, hint = $6,
       error_since = case when $4::text is not null then clock_timestamp() end
 where agent = $1 and name = $2
