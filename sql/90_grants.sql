-- Who may do what.
--
-- What is in the log runs on the slaves. It gets there only by the triggers, which only the owner of a table can
-- attach (add_table), and by INSERT on replica_log, which nobody has until it is granted, and which replicate_ddl asks for.
-- The log is read by the agent's role only: grant it with pyreplica.allow_agent(role).

revoke all on all functions in schema pyreplica from public;
revoke all on all tables in schema pyreplica from public;
grant usage on schema pyreplica to public;
grant execute on function
    pyreplica.add_table(regclass, name[], text, text[], boolean), pyreplica.remove_table(regclass),
    pyreplica.add_all_tables(name), pyreplica.objection(regclass), pyreplica.unlogged_part(regclass),
    pyreplica.filter_text(pg_node_tree, text, oid, text), pyreplica.trigger_words(bytea), pyreplica.is_options(bytea),
    pyreplica.ready(), pyreplica.log_now(),
    pyreplica.copy_condition(regclass),
    pyreplica.add_sequence(regclass), pyreplica.remove_sequence(regclass), pyreplica.replicate_ddl(text),
    pyreplica.spread_sequences(name, int, int), pyreplica.own_value(numeric, int, int, boolean)
    to public;
grant select on pyreplica.replicated_table, pyreplica.captured_part, pyreplica.replicated_sequence,
    pyreplica.node to public;

create function pyreplica.allow_agent(role regrole) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if role is null then
        raise exception using errcode = '22004', message = 'role must not be null',
            hint = 'Name the role that the agent connects as.';
    end if;
    execute format('grant select on pyreplica.log, pyreplica.replica_log, pyreplica.slave_status, pyreplica.horizon,
                                    pyreplica.log_id to %s', role);
    execute format('grant select, insert, update, delete on pyreplica.slave, pyreplica.decision to %s', role);
    execute format('grant execute on function pyreplica.rotate_log(), pyreplica.flush_wal(),
                                              pyreplica.arm(text[]), pyreplica.disarm(), pyreplica.doze(int),
                                              pyreplica.behind(bigint, pg_snapshot, bigint),
                                              pyreplica.sequence_state(oid), pyreplica.moved_sequences(boolean),
                                              pyreplica.decode_chunk(bytea),
                                              pyreplica.join_pieces(xid8, bigint, bigint) to %s', role);
end $$;
comment on function pyreplica.allow_agent(regrole) is
    'grants what the agent needs of the log; SELECT on the replicated tables comes besides';
revoke all on function pyreplica.allow_agent(regrole) from public;

-- Kept by pg_dump: the added sequences, like the triggers. A restored master starts with an empty log; a slave that is a restored dump has none.
