-- Prepared transactions of this database whose identifier begins with $1.
select gid from pg_prepared_xacts where database = current_database() and starts_with(gid, $1) order by gid
