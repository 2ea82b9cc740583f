-- Whether the agent's schema is there, and what the session's role lacks to use it, or to create it.
select s.oid is not null,
       case when s.oid is null
            then array(select 'CREATE on the database' where not has_database_privilege(current_database(), 'CREATE'))
            when not has_schema_privilege(s.oid, 'USAGE')
            then array['USAGE on the schema']
            when not exists (select from pg_class where relnamespace = s.oid and relname = 'position')
            then array(select 'CREATE on the schema' where not has_schema_privilege(s.oid, 'CREATE'))
            else array(select format('%s on %I', string_agg(p.privilege, ', ' order by p.ord), c.relname)
                         from pg_class c
                         cross join unnest(case c.relname when 'piece' then array['SELECT', 'INSERT', 'TRUNCATE']
                                           else array['SELECT', 'INSERT', 'UPDATE', 'DELETE'] end)
                              with ordinality p(privilege, ord)
                        where c.relnamespace = s.oid and c.relkind = 'r'
                          and not has_table_privilege(c.oid, p.privilege)
                        group by c.relname
                        order by c.relname)
       end
  from (values (to_regnamespace('pyreplica_agent'))) s(oid)
