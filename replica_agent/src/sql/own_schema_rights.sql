-- Whether the agent's schema is there, and what the session's role lacks to use it, or to create it.
select to_regnamespace('pyreplica_agent') is not null,
       case when to_regnamespace('pyreplica_agent') is null
            then array(select 'CREATE on the database' where not has_database_privilege(current_database(), 'CREATE'))
            else array(select format('%s on %s', r.privilege, r.object)
                         from (select c.oid, format('%I.%I', n.nspname, c.relname) as object, p.privilege
                                 from pg_class c
                                 join pg_namespace n on n.oid = c.relnamespace
                                 cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p(privilege)
                                where n.nspname = 'pyreplica_agent' and c.relkind = 'r') r
                        where not has_table_privilege(r.oid, r.privilege)
                       union all
                       select 'USAGE on schema pyreplica_agent'
                        where not has_schema_privilege('pyreplica_agent', 'USAGE')
                       union all
                       select 'CREATE on schema pyreplica_agent'
                        where to_regclass('pyreplica_agent.position') is null
                          and not has_schema_privilege('pyreplica_agent', 'CREATE'))
       end
