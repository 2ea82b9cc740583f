-- By what others find this session. Where its role may not see when it began, they do not see it either.
select pg_backend_pid(),
       coalesce((select backend_start::text from pg_stat_activity where pid = pg_backend_pid()), '')
