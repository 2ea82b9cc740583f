-- At a node: whether its slaves would take for its own what this session writes. Only a replica, or the role of an agent,
-- says for whom it writes (replica_ext/src/origin.rs).
select current_user::text as user,
       current_setting('session_replication_role') <> 'replica'
       and not has_table_privilege('pyreplica.slave', 'INSERT')
       and pg_relation_size('pyreplica.slave') > 0 as unmarked
