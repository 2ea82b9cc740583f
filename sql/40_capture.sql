-- Which tables are captured. There is no table of tables: the triggers themselves are the register, so that
-- renaming, dropping, partitioning and restoring a table need nothing from us.

create function pyreplica.log_change() returns trigger
    language c as 'MODULE_PATHNAME', 'pyreplica_log_change';
comment on function pyreplica.log_change() is 'row trigger: logs a change; attached by pyreplica.add_table';

create function pyreplica.log_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'pyreplica_log_truncate';
comment on function pyreplica.log_truncate() is 'statement trigger: logs a TRUNCATE; attached by pyreplica.add_table';

-- Why a table cannot be replicated, as (sqlstate, message, hint); no row when it can.
create function pyreplica.objection(rel regclass, out state text, out message text, out hint text) returns setof record
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    c record;
    other text;
begin
    select k.*, n.nspname into c from pg_class k join pg_namespace n on n.oid = relnamespace where k.oid = rel;
    if not found then
        state := '42P01'; message := format('relation with OID %s does not exist', rel::oid);
    elsif c.relkind in ('v', 'm', 'f', 'S', 'i', 'I', 'c', 't') then
        state := '42809';
        message := format('%s is not a table', rel);
        hint := case c.relkind when 'v' then 'Add the tables that the view reads.'
                               when 'm' then 'Refresh the materialized view on the slave instead.'
                               when 'f' then 'Replicate the foreign table at its own server.'
                               else 'Only ordinary and partitioned tables can be replicated.' end;
    elsif c.nspname in ('pg_catalog', 'information_schema', 'pg_toast') then
        state := '42809'; message := format('%s is a system catalog', rel);
        hint := 'Queue statements with INSERT INTO pyreplica.replica_log (sql) instead.';
    elsif c.nspname = 'pyreplica' then
        state := '42809'; message := format('%s belongs to the replication itself', rel);
        hint := 'Only tables of your own can be replicated.';
    elsif c.relpersistence = 't' then
        state := '42809'; message := format('%s is a temporary table', rel);
        hint := 'Temporary tables are never replicated.';
    elsif c.relpersistence = 'u' then
        state := '42809'; message := format('%s is an unlogged table', rel);
        hint := 'A crash of the master would empty it and not the slaves. Use ALTER TABLE ... SET LOGGED first.';
    elsif not exists (select from pg_index where indrelid = rel and indisprimary) then
        state := '42P16'; message := format('table %s has no primary key', rel);
        hint := 'Add one with ALTER TABLE ... ADD PRIMARY KEY.';
    elsif exists (select from pg_index where indrelid = rel and indisprimary and not indimmediate) then
        state := '42P16'; message := format('primary key of table %s is deferrable', rel);
        hint := 'Two rows may share it for a while, so it cannot tell them apart. Use a primary key that is NOT DEFERRABLE.';
    elsif exists (select from pg_attribute a join pg_index i on i.indrelid = a.attrelid and a.attnum = any(i.indkey)
                  where i.indrelid = rel and i.indisprimary and a.attgenerated <> '') then
        state := '42P16'; message := format('primary key of table %s has a generated column', rel);
        hint := 'Generated columns are not sent to the slaves. Use a primary key of ordinary columns.';
    else
        select string_agg(tgrelid::regclass::text, ', ') into other
          from pg_trigger
         where tgfoid = 'pyreplica.log_change'::regproc and tgparentid = 0
           and (tgrelid = rel
                or tgrelid in (select relid from pg_partition_tree(rel))
                or tgrelid in (select relid from pg_partition_ancestors(rel)));
        if other = rel::text then
            state := '42710'; message := format('table %s is already replicated', rel);
            hint := 'Use pyreplica.remove_table first to add it anew.';
        elsif other is not null then
            state := '42710';
            message := format('table %s is already replicated as part of %s', rel, other);
            hint := format('A partitioned table is replicated as a whole or by its partitions. Use pyreplica.remove_table on %s first.', other);
        else
            return;
        end if;
    end if;
    return next;
end $$;

-- Private half of add_table, run as the extension's owner after the caller was found to own the table.
create function pyreplica.attach(rel regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    no record;
    trigger_name name;
begin
    select * into no from pyreplica.objection(rel);
    if found then
        raise exception using errcode = no.state, message = no.message, hint = no.hint;
    end if;
    execute format('create trigger "!pyreplica" after insert or update or delete on %s
                    for each row execute function pyreplica.log_change()', rel);
    -- By now it may have been renamed (keep_first).
    select tgname into trigger_name from pg_trigger
     where tgrelid = rel and tgfoid = 'pyreplica.log_change'::regproc;
    execute format('alter trigger %I on %s depends on extension pyreplica', trigger_name, rel);
    perform pyreplica.attach_truncate(t.relid) from pg_partition_tree(rel) t
    union all select pyreplica.attach_truncate(rel) where not exists (select from pg_partition_tree(rel));
    perform pyreplica.keep_firing();
end $$;

-- TRUNCATE fires statement triggers only, which partitions do not inherit: each partition gets its own.
create function pyreplica.attach_truncate(rel regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from pg_trigger where tgrelid = rel and tgfoid = 'pyreplica.log_truncate'::regproc) then
        return;
    end if;
    execute format('create trigger "!pyreplica_truncate" after truncate on %s
                    for each statement execute function pyreplica.log_truncate()', rel);
    execute format('alter trigger "!pyreplica_truncate" on %s depends on extension pyreplica', rel);
end $$;

-- Private half of remove_table.
create function pyreplica.detach(rel regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    t record;
begin
    if not exists (select from pg_trigger
                   where tgrelid = rel and tgparentid = 0 and tgfoid = 'pyreplica.log_change'::regproc) then
        raise exception using errcode = '42704', message = format('table %s is not replicated', rel),
            hint = 'See pyreplica.replicated_table for the tables that are.';
    end if;
    for t in
        select tgname, tgrelid::regclass as relation from pg_trigger
        where tgparentid = 0
          and tgfoid in ('pyreplica.log_change'::regproc, 'pyreplica.log_truncate'::regproc)
          and (tgrelid = rel or tgrelid in (select relid from pg_partition_tree(rel)))
    loop
        execute format('drop trigger %I on %s', t.tgname, t.relation);
    end loop;
end $$;

-- Ours must be the first of a table's AFTER ROW triggers: then whatever is logged before the first row of a statement
-- was changed before it, and what triggers of the user change comes after (replica_ext/src/buffer.rs).
-- "!pyreplica" sorts before nearly every name; where one sorts before it, ours gets a name with a control character.
create function pyreplica.keep_first() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    late record;
begin
    for late in
        select distinct own.tgname, own.tgrelid::regclass as relation
          from pg_trigger ours
          join pg_trigger other on other.tgrelid = ours.tgrelid and other.tgname < ours.tgname
          join pg_trigger own on own.tgfoid = ours.tgfoid and own.tgparentid = 0
                             and (own.tgrelid = ours.tgrelid
                                  or own.tgrelid in (select relid from pg_partition_ancestors(ours.tgrelid)))
         where ours.tgfoid = 'pyreplica.log_change'::regproc
           and other.tgtype & 1 = 1 and other.tgtype & 66 = 0 -- FOR EACH ROW, AFTER
           and own.tgname <> e'\x01pyreplica'
    loop
        execute format('alter trigger %I on %s rename to %I', late.tgname, late.relation, e'\x01pyreplica');
    end loop;
end $$;

-- Keeps captured tables captured when their definition changes: triggers that sort before ours, and partitions
-- attached, created or detached later. Row triggers come and go with partitions, those for TRUNCATE are ours to add
-- and drop. What a restored dump says of how they fire is what the node was that was dumped.
create function pyreplica.follow_ddl() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    orphan record;
begin
    -- Temporary tables are made often, and never captured.
    if not exists (select from pg_event_trigger_ddl_commands() where schema_name is distinct from 'pg_temp') then
        return;
    end if;
    perform pyreplica.keep_first();
    perform pyreplica.attach_truncate(c.tgrelid)
       from pg_trigger c
      where c.tgfoid = 'pyreplica.log_change'::regproc and c.tgparentid <> 0
        and not exists (select from pg_trigger t where t.tgrelid = c.tgrelid
                                                   and t.tgfoid = 'pyreplica.log_truncate'::regproc);
    for orphan in
        select tgname, tgrelid::regclass as relation from pg_trigger g
        where g.tgfoid = 'pyreplica.log_truncate'::regproc
          and not exists (select from pg_trigger c where c.tgrelid = g.tgrelid
                                                     and c.tgfoid = 'pyreplica.log_change'::regproc)
    loop
        execute format('drop trigger %I on %s', orphan.tgname, orphan.relation);
    end loop;
    perform pyreplica.keep_firing();
end $$;

create event trigger pyreplica_follow_ddl on ddl_command_end
    when tag in ('CREATE TABLE', 'ALTER TABLE', 'CREATE TRIGGER', 'ALTER TRIGGER')
    execute function pyreplica.follow_ddl();
-- Agents run queued statements as replicas.
alter event trigger pyreplica_follow_ddl enable always;

create function pyreplica.add_table(relation regclass) returns void
    strict language c as 'MODULE_PATHNAME', 'add_table_wrapper';
comment on function pyreplica.add_table(regclass) is 'starts capture of a table; only its owner may';

create function pyreplica.remove_table(relation regclass) returns void
    strict language c as 'MODULE_PATHNAME', 'remove_table_wrapper';
comment on function pyreplica.remove_table(regclass) is 'stops capture of a table and leaves nothing behind';

create function pyreplica.add_all_tables(schema name, out relation regclass, out added boolean, out reason text)
    returns setof record language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    no record;
begin
    if not exists (select from pg_namespace where nspname = schema) then
        raise exception using errcode = '3F000', message = format('schema %I does not exist', schema);
    end if;
    -- A partition comes with its root; tables of extensions are left to the extension.
    for relation in
        select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = schema and c.relkind in ('r', 'p') and not c.relispartition
        order by c.relname collate "C"
    loop
        added := false;
        select message into reason from pyreplica.objection(relation);
        if reason is null and exists (select from pg_depend where classid = 'pg_class'::regclass
                                      and objid = relation and deptype = 'e') then
            reason := format('table %s belongs to an extension', relation);
        elsif reason is null then
            begin
                perform pyreplica.add_table(relation);
                added := true;
            exception when insufficient_privilege then
                reason := sqlerrm;
            end;
        end if;
        return next;
    end loop;
end $$;
comment on function pyreplica.add_all_tables(name) is 'starts capture of all tables of a schema; reports those that cannot be replicated';

create view pyreplica.replicated_table as
    select t.tgrelid::regclass as relation, n.nspname as schema_name, c.relname as table_name,
           (select array_agg(a.attname order by k.ord)
              from pg_index i, unnest(i.indkey) with ordinality k(attnum, ord)
              join pg_attribute a on a.attnum = k.attnum
             where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid) as key_columns,
           c.relkind = 'p' as partitioned,
           t.tgenabled not in ('D', 'R')
             and exists (select from pg_trigger e where e.tgrelid = c.oid and e.tgenabled not in ('D', 'R')
                          and e.tgfoid = 'pyreplica.log_truncate'::regproc) as enabled
      from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
     where t.tgfoid = 'pyreplica.log_change'::regproc and t.tgparentid = 0;
comment on view pyreplica.replicated_table is 'what is captured, and how';
