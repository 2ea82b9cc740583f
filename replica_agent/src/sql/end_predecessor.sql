-- Ends the sessions of this database that hold the advisory lock $1.
select pid, pg_terminate_backend(pid)
  from pg_locks
 where locktype = 'advisory' and granted and objsubid = 1
   and database = (select oid from pg_database where datname = current_database())
   and classid = (($1::bigint >> 32) & 4294967295)::oid and objid = ($1::bigint & 4294967295)::oid
