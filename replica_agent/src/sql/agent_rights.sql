-- Which of the rights that pyreplica.allow_agent grants the session's role lacks.
select array(
    select format('%s on %s', r.privilege, r.object)
      from (values ('pyreplica.log', 'SELECT'), ('pyreplica.slave_status', 'SELECT'), ('pyreplica.horizon', 'SELECT'),
                   ('pyreplica.slave', 'SELECT'), ('pyreplica.slave', 'INSERT'), ('pyreplica.slave', 'UPDATE'),
                   ('pyreplica.slave', 'DELETE'), ('pyreplica.decision', 'SELECT'), ('pyreplica.decision', 'INSERT'),
                   ('pyreplica.decision', 'DELETE')) r(object, privilege)
     where not has_table_privilege(r.object, r.privilege)
    union all
    select 'SELECT on pyreplica.log_id' where not has_sequence_privilege('pyreplica.log_id', 'SELECT')
    union all
    select format('EXECUTE on %s', r.function)
      from (values ('pyreplica.rotate_log()'), ('pyreplica.flush_wal()'),
                   ('pyreplica.behind(bigint,pg_snapshot)')) r(function)
     where not has_function_privilege(r.function, 'EXECUTE'))
