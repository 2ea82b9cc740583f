-- What the agent calls on the master.

-- Makes all that is visible now durable (for transactions with synchronous_commit = off); returns the position
-- in the WAL up to which it is flushed.
create function pyreplica.flush_wal() returns pg_lsn
    language c as 'MODULE_PATHNAME', 'flush_wal_wrapper';
comment on function pyreplica.flush_wal() is 'flushes the WAL so that what is visible cannot be lost in a crash';

-- The last id that was drawn, and the transactions that have written to the log and not ended, as id:writer,writer; the
-- name of a writer ends with + when it has a chunk and will have another: it has spilled, or is prepared.
-- While it stays the same nothing is committed. Given an array it marks the session as a sleeper, for which writers
-- notify from then on, unless others than these are among the writers: they may not have seen it.
create function pyreplica.arm(slow text[]) returns text
    language c as 'MODULE_PATHNAME', 'arm_wrapper';
comment on function pyreplica.arm(text[]) is 'state of the log; lets the session sleep until NOTIFY replicas';

-- Waits until something may have been committed that statements since the last call have not seen, at most so many
-- milliseconds; writers wake it without NOTIFY. Returns the state of the log as arm does.
create function pyreplica.doze(milliseconds int) returns text strict
    language c as 'MODULE_PATHNAME', 'doze_wrapper';
comment on function pyreplica.doze(int) is 'waits for something new in the log';

create function pyreplica.disarm() returns boolean
    language c as 'MODULE_PATHNAME', 'disarm_wrapper';
comment on function pyreplica.disarm() is 'the session sleeps no more';

-- pyreplica.max_log_size in bytes; 0 is no limit.
create function pyreplica.max_log_bytes() returns bigint
    language c as 'MODULE_PATHNAME', 'max_log_bytes_wrapper';
comment on function pyreplica.max_log_bytes() is 'the setting pyreplica.max_log_size in bytes';

-- Empties chunk tables that every slave has passed, and lets writers go on to an empty one when theirs has grown.
--
-- A table is emptied only under ACCESS EXCLUSIVE, taken with NOWAIT: a writer keeps its lock to the end of its
-- transaction, a prepared one to its COMMIT PREPARED, so under the lock all its rows are committed and visible to
-- the next statement, which then checks every slave's position against them.
-- Where the lock or the check fails nothing happens; the agent calls again later.
--
-- Beyond pyreplica.max_log_size the slave that is farthest behind is put to state 'needs copy' and no longer counts;
-- one in a call, so that what it held is emptied before another one is given up.
-- The indexes are used whatever the planner thinks of tables that nobody has analyzed; what it then thinks to be costly
-- it must not compile.
create function pyreplica.rotate_log() returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    max_size constant bigint := pyreplica.max_log_bytes();
    -- A table this large is left for the next one. Small enough to stay in memory, large enough to rotate seldom.
    rotate_size constant bigint := least(16 * 1024 * 1024, coalesce(nullif(max_size, 0) / 4, 16 * 1024 * 1024));
    log_size bigint;
    current_no int;
    log_table regclass;
    kept boolean;
    last_rank bigint;
    last_xid xid8;
    slow record;
    slowest_agent text;
    slowest_name text;
    slowest_rank bigint;
begin
    -- Without slaves nothing is known to be applied, and one with initial = "oldest" may still come.
    if not exists (select from pyreplica.slave) then
        return;
    end if;

    select last_value into current_no from pyreplica.log_current;
    for i in 0 .. 2 loop
        log_table := format('pyreplica.log_%s', i)::regclass;
        if i = current_no or pg_relation_size(log_table) = 0 then
            continue;
        end if;
        begin
            execute format('lock table %s in access exclusive mode nowait', log_table);
            execute format(
                'select exists (select from pyreplica.slave s
                                where s.state <> ''needs copy''
                                  and (s.rank is null
                                       or exists (select from %1$s l
                                                   where l.final and l.id > s.settled
                                                     and (l.id > s.rank
                                                          or not pg_visible_in_snapshot(l.xid, s.snapshot)))
                                       or exists (select from %1$s l where l.chunks <> 1
                                                     and l.xid >= pg_snapshot_xmax(s.snapshot))
                                       or exists (select from %1$s l where l.chunks <> 1
                                                     and l.xid = any (array(select pg_snapshot_xip(s.snapshot))))))',
                log_table) into kept;
            if not kept then
                execute format('select max(id), max(xid) from %s', log_table)
                    into last_rank, last_xid;
                update pyreplica.horizon
                   set rank = greatest(rank, coalesce(last_rank, 0)),
                       xid = case when last_xid > xid then last_xid else xid end;
                execute format('truncate table %s', log_table);
            end if;
        exception when lock_not_available then
            null; -- a writer, a prepared transaction or pg_dump holds it
        end;
    end loop;

    if pg_relation_size(format('pyreplica.log_%s', current_no)::regclass) >= rotate_size
       and pg_relation_size(format('pyreplica.log_%s', (current_no + 1) % 3)::regclass) = 0 then
        perform setval('pyreplica.log_current', (current_no + 1) % 3, true);
    elsif pg_relation_size(format('pyreplica.log_%s', current_no)::regclass) >= rotate_size
       and pg_relation_size(format('pyreplica.log_%s', (current_no + 2) % 3)::regclass) = 0 then
        perform setval('pyreplica.log_current', (current_no + 2) % 3, true);
    end if;

    select sum(pg_total_relation_size(format('pyreplica.log_%s', i)::regclass)) into log_size
      from generate_series(0, 2) i;
    if max_size = 0 or log_size <= max_size then
        return;
    end if;
    select last_value into current_no from pyreplica.log_current;
    for i in 0 .. 2 loop
        -- Of those that hold a table which is no longer written to: the writers' table would not be emptied.
        continue when i = current_no;
        execute format(
            'select agent, name, coalesce(rank, -1) as rank from pyreplica.slave s
              where s.state <> ''needs copy''
                and (s.rank is null or exists (select from pyreplica.log_%s l where l.final and l.id > s.rank))
              order by s.rank nulls first limit 1', i) into slow;
        if slow.name is not null and (slowest_name is null or slow.rank < slowest_rank) then
            slowest_agent := slow.agent;
            slowest_name := slow.name;
            slowest_rank := slow.rank;
        end if;
    end loop;
    if slowest_name is not null then
        update pyreplica.slave
           set state = 'needs copy', state_since = clock_timestamp(), error_since = clock_timestamp(),
               last_error = format('the log reached %s, the limit is pyreplica.max_log_size = %s',
                                   pg_size_pretty(log_size), pg_size_pretty(max_size)),
               sqlstate = '53400', hint = 'Copy the slave again with "replica_agent copy".'
         where agent = slowest_agent and name = slowest_name;
    end if;
end $$;
comment on function pyreplica.rotate_log() is 'empties chunk tables that every slave has passed';

-- What a slave with this position has not applied yet: changes, bytes and the time of the oldest. Up to `settled` only
-- transactions of several chunks may be left, which are found by their xid.
create function pyreplica.behind(rank bigint, snapshot pg_snapshot, settled bigint,
                                 out changes bigint, out bytes bigint, out since timestamptz)
    language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    select coalesce(sum(l.changes), 0),
           coalesce(sum(case when l.chunks = 1 then octet_length(l.payload) else l.chunks * 7900 end), 0),
           min(l.ts)
      from (select changes, chunks, payload, ts from pyreplica.log
             where final and id > $3 and (id > coalesce($1, 0) or not pg_visible_in_snapshot(xid, $2))
            union all
            select changes, chunks, payload, ts from pyreplica.log
             where chunks > 1 and id + 0 <= $3
               and (xid >= pg_snapshot_xmax($2) or xid = any (array(select pg_snapshot_xip($2))))) l
$$;

create view pyreplica.slave_status as
    select s.name, s.agent, s.state, s.state_since,
           s.rank as applied_position, s.snapshot as applied_snapshot, s.applied_ts as applied_at, s.updated_at,
           b.changes as changes_behind, b.bytes as bytes_behind,
           coalesce(extract(epoch from clock_timestamp() - b.since), 0)::numeric(20, 3) as seconds_behind,
           s.last_error, s.sqlstate, s.hint, s.error_since, s.stages
      from pyreplica.slave s, pyreplica.behind(s.rank, s.snapshot, s.settled) b;
comment on view pyreplica.slave_status is 'one row per slave: where it stands, how far behind it is, and what stops it';
