-- calm: there is nothing to do for the slave $3 of agent $2 but to go on: no transaction prepared under $1 that we know
-- nothing of, no table to copy again, and it is a node or not, as $4 says.
-- watchers: the triggers and rules that fire for replicated changes; another text than before if they are others.
select not exists (select from pg_prepared_xacts where database = current_database() and starts_with(gid, $1))
       and not exists (select from pyreplica_agent.copy_request where agent = $2 and slave = $3 and error is null)
       and (to_regclass('pyreplica.node') is not null) = $4 as calm,
       concat((select string_agg(oid::text, ',' order by oid)
                 from pg_trigger where tgenabled in ('A', 'R') and not tgisinternal),
              '/',
              (select string_agg(oid::text, ',' order by oid) from pg_rewrite where ev_enabled in ('A', 'R'))) as watchers
