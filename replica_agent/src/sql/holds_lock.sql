-- Is the advisory lock $1 of this database held by the session of process $2 that began at $3?
select exists (
    select from pg_locks l
     where locktype = 'advisory' and granted and objsubid = 1 and pid = $2
       and database = (select oid from pg_database where datname = current_database())
       and classid = (($1::bigint >> 32) & 4294967295)::oid and objid = ($1::bigint & 4294967295)::oid
       and coalesce((select backend_start::text from pg_stat_activity a where a.pid = l.pid), '') = $3::text)
