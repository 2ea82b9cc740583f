-- Which of the rights that pyreplica.allow_agent grants the session's role lacks.
select array(
    select format('%s on %s', string_agg(p.privilege, ', ' order by p.ord), r.object)
      from (values ('pyreplica.log', array['SELECT']), ('pyreplica.slave_status', array['SELECT']),
                   ('pyreplica.horizon', array['SELECT']), ('pyreplica.replicated_sequence', array['SELECT']), ('pyreplica.log_id', array['SELECT']),
                   ('pyreplica.slave', array['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
                   ('pyreplica.decision', array['SELECT', 'INSERT', 'DELETE'])) r(object, privileges)
           cross join unnest(r.privileges) with ordinality p(privilege, ord)
     where not has_table_privilege(r.object, p.privilege)
     group by r.object
    union all
    select format('EXECUTE on %s', r.function)
      from (values ('pyreplica.rotate_log()'), ('pyreplica.flush_wal()'),
                   ('pyreplica.arm(text[])'), ('pyreplica.disarm()'), ('pyreplica.doze(int)'),
                   ('pyreplica.behind(bigint,pg_snapshot,bigint)'),
                   ('pyreplica.sequence_state(oid)'), ('pyreplica.moved_sequences(boolean)')) r(function)
     where not has_function_privilege(r.function, 'EXECUTE'))
