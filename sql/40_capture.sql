-- Which tables are captured. There is no table of tables: the triggers themselves are the register, so that
-- renaming, dropping, partitioning and restoring a table need nothing from us.

create function pyreplica.log_change() returns trigger
    language c as 'MODULE_PATHNAME', 'pyreplica_log_change';
comment on function pyreplica.log_change() is 'row trigger: logs a change; attached by pyreplica.add_table';

create function pyreplica.log_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'pyreplica_log_truncate';
comment on function pyreplica.log_truncate() is 'statement trigger: logs a TRUNCATE; attached by pyreplica.add_table';

-- The table, or a partition of it, that a crash empties; NULL if there is none.
create function pyreplica.unlogged_part(rel regclass) returns regclass
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.oid from (select rel::oid union select relid from pg_partition_tree(rel)) p(oid) join pg_class c using (oid)
     where c.relpersistence = 'u' limit 1
$$;

-- Why a table cannot be replicated, as (sqlstate, message, hint); no row when it can.
create function pyreplica.objection(rel regclass, out state text, out message text, out hint text) returns setof record
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    c record;
    other text;
begin
    select k.*, n.nspname into c from pg_class k join pg_namespace n on n.oid = relnamespace where k.oid = rel;
    if rel is null then
        state := '22004'; message := 'relation must not be null';
        hint := 'Name the table as schema.table.';
    elsif not found then
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
    elsif pyreplica.unlogged_part(rel) is not null then
        state := '42809'; message := format('partition %s of table %s is unlogged', pyreplica.unlogged_part(rel), rel);
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

-- What of a table is captured, where not all of it is:
--
-- "!pyreplica"           WHEN (log_now()): all of it; or, with any of add_table's further arguments, instead of it:
-- "!pyreplica_insert"    fires when the row is in the filter; likewise _delete
-- "!pyreplica_update"    fires when the row was in the filter or is; with a filter over rows it finds out whether the row
--                        has moved in or out, which is logged as INSERT or DELETE
-- "!pyreplica_options"   AFTER UPDATE [OF columns] WHEN (false [AND row_filter]), disabled: never fires
--
-- One of them has the record of what was asked for: the filter in its condition, the rest as words in its argument, the
-- columns in its list. So PostgreSQL keeps it in step with renamed columns and functions, hands it down to partitions, dumps
-- and restores it. That is "!pyreplica_insert" where its condition is the filter and there are no columns, and else
-- "!pyreplica_options", which is there for nothing else: for every statement that writes to the table PostgreSQL copies all
-- its triggers, string by string. It decides WHEN before it queues an event, so what is not in the filter costs next to
-- nothing.

-- Stands in each WHEN clause; true. It loads the library, which then keeps conditions from one statement to the next
-- (replica_ext/src/pg/when.rs); immutable, so that it is called once in a statement and not for each row.
create function pyreplica.ready() returns boolean
    immutable parallel safe language c as 'MODULE_PATHNAME', 'pyreplica_ready';
comment on function pyreplica.ready() is 'true; loads the library that keeps the conditions of triggers ready';

-- Stands in the WHEN clause of each trigger without a filter. PostgreSQL evaluates that as soon as a row is changed; this one
-- logs the change and is false, so that no event is queued and the trigger is not called
-- (replica_ext/src/pg/log_now.rs). An expression sees the changed row only if PostgreSQL hands it over, and to no function;
-- but to subscripts of a type that brings its own. So the function's support function replaces its call by such a
-- subscript, of a type that is there for nothing else.
create type pyreplica.row_change;
create function pyreplica.row_change_in(cstring) returns pyreplica.row_change
    immutable strict language c as 'MODULE_PATHNAME', 'pyreplica_row_change_in';
create function pyreplica.row_change_out(pyreplica.row_change) returns cstring
    immutable strict language c as 'MODULE_PATHNAME', 'pyreplica_row_change_out';
create function pyreplica.row_change_subscript(internal) returns internal
    immutable strict language c as 'MODULE_PATHNAME', 'pyreplica_row_change_subscript';
create type pyreplica.row_change (
    input = pyreplica.row_change_in, output = pyreplica.row_change_out, like = pg_catalog.bool,
    subscript = pyreplica.row_change_subscript
);
comment on type pyreplica.row_change is 'has no values; its subscripts are how log_now() sees the row';
create function pyreplica.log_now_support(internal) returns internal
    strict language c as 'MODULE_PATHNAME', 'pyreplica_log_now_support';
create function pyreplica.log_now() returns boolean
    volatile language c support pyreplica.log_now_support as 'MODULE_PATHNAME', 'pyreplica_log_now';
comment on function pyreplica.log_now() is 'WHEN clause of triggers: logs the change at hand, and is false';

-- One of these (replica_ext/src/pg/filter.rs).
create function pyreplica.make_trigger(rel oid, functions oid[], part text, filter pg_node_tree,
                                       filter_over text, columns int2[], record text) returns void
    language c as 'MODULE_PATHNAME', 'make_trigger_wrapper';

-- The filter in the condition of the trigger that has the record, as SQL; over a row of this name, or with bare columns.
create function pyreplica.filter_text(condition pg_node_tree, filter_over text, rel oid, row_name text) returns text
    stable language c as 'MODULE_PATHNAME', 'filter_text_wrapper';

-- The words in the argument of a trigger; and whether it is one of options.
create function pyreplica.trigger_words(arguments bytea) returns text[]
    language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as
    $$ select string_to_array(split_part(encode(arguments, 'escape'), e'\\000', 1), ' ') $$;

create function pyreplica.is_options(arguments bytea) returns boolean
    language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as
    $$ select arguments like 'options%' $$;

-- The numbers of the columns that are to be sent, or an error.
create function pyreplica.column_numbers(rel regclass, columns name[]) returns int2[]
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    col name;
    numbers int2[] := '{}';
    a record;
begin
    foreach col in array columns loop
        if col is null then
            raise exception using errcode = '22004', message = 'columns must not be null',
                hint = 'Leave out the argument to send all columns.';
        end if;
        select attnum, attgenerated into a from pg_attribute
         where attrelid = rel and attname = col and attnum > 0 and not attisdropped;
        if not found then
            raise exception using errcode = '42703',
                message = format('column "%s" of table %s does not exist', col, rel),
                hint = (select 'Its columns are: ' || string_agg(attname, ', ' order by attnum) || '.'
                          from pg_attribute where attrelid = rel and attnum > 0 and not attisdropped);
        elsif a.attgenerated <> '' then
            raise exception using errcode = '42611', message = format('column "%s" of table %s is generated', col, rel),
                hint = 'Generated columns are never sent: a slave computes its own. Leave it out.';
        elsif a.attnum = any (numbers) then
            raise exception using errcode = '42701', message = format('column "%s" is named twice', col),
                hint = 'Name each column once.';
        end if;
        numbers := numbers || a.attnum;
    end loop;
    select attname into col
      from pg_index join pg_attribute on attrelid = indrelid and attnum = any (indkey)
     where indrelid = rel and indisprimary and attnum <> all (numbers) order by attnum limit 1;
    if found then
        raise exception using errcode = '42P16',
            message = format('column "%s" belongs to the primary key of table %s and is not among the columns', col, rel),
            hint = 'The key finds the row on the slaves: name all its columns.';
    end if;
    return numbers;
end $$;

-- Private half of add_table, run as the extension's owner after the caller was found to own the table.
create function pyreplica.attach(rel regclass, columns name[], filter pg_node_tree, filter_over text,
                                 operations text[], whole_rows boolean) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    no record;
    ops text[] := '{insert,update,delete,truncate}';
    log_change constant oid := 'pyreplica.log_change'::regproc;
    functions constant oid[] :=
        array['pyreplica.log_change'::regproc, 'pyreplica.ready'::regproc, 'pyreplica.log_now'::regproc];
    partly constant boolean :=
        columns is not null or filter is not null or operations is not null or whole_rows is true;
    op text;
    own name;
    record text;
begin
    select * into no from pyreplica.objection(rel);
    if found then
        raise exception using errcode = no.state, message = no.message, hint = no.hint;
    end if;
    if operations is not null then
        select quote_nullable(wanted) into op from unnest(operations) wanted where lower(wanted) = any (ops) is not true;
        if found or operations = '{}' then
            raise exception using errcode = '22023',
                message = coalesce('unknown operation ' || op, 'operations must not be empty'),
                hint = 'Operations are insert, update, delete and truncate; leave out the argument for all of them.';
        end if;
        ops := (select array_agg(o order by n) from unnest(ops) with ordinality u(o, n)
                 where o in (select lower(wanted) from unnest(operations) wanted));
    end if;

    perform pyreplica.drop_orphans();
    if not partly then
        execute format('create trigger "!pyreplica" after insert or update or delete on %s
                        for each row when (pyreplica.log_now()) execute function pyreplica.log_change()', rel);
    else
        record := concat_ws(' ', array_to_string(ops, ' '), filter_over, case when whole_rows then 'whole_rows' end);
        if columns is not null or filter_over is distinct from 'rows' or 'insert' <> all (ops) then
            perform pyreplica.make_trigger(
                rel, functions, 'options', filter, filter_over,
                case when columns is null then '{}' else pyreplica.column_numbers(rel, columns) end, 'options ' || record);
            record := null;
        end if;
        foreach op in array array_remove(ops, 'truncate') loop
            perform pyreplica.make_trigger(rel, functions, op, filter, filter_over, '{}',
                                           case when op = 'insert' then record end);
        end loop;
    end if;
    perform pyreplica.keep_first();
    for own in select tgname from pg_trigger where tgrelid = rel and tgfoid = log_change loop
        execute format('alter trigger %I on %s depends on extension pyreplica', own, rel);
    end loop;
    if 'truncate' = any (ops) then
        perform pyreplica.attach_truncate(t.relid) from pg_partition_tree(rel) t
        union all select pyreplica.attach_truncate(rel) where not exists (select from pg_partition_tree(rel));
    end if;
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
    language plpgsql set search_path = pg_catalog, pg_temp set pyreplica.drops_triggers = on as $$
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
-- "!pyreplica" sorts before nearly every name; where one sorts before it, ours get names with a control character.
create function pyreplica.keep_first() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    late record;
begin
    for late in
        select distinct own.tgname, own.tgrelid::regclass as relation
          from pg_trigger ours
          join pg_trigger other on other.tgrelid = ours.tgrelid and other.tgname < ours.tgname
                               and other.tgfoid <> ours.tgfoid
          join pg_trigger own on own.tgfoid = ours.tgfoid and own.tgparentid = 0
                             and (own.tgrelid = ours.tgrelid
                                  or own.tgrelid in (select relid from pg_partition_ancestors(ours.tgrelid)))
         where ours.tgfoid = 'pyreplica.log_change'::regproc
           and other.tgtype & 1 = 1 and other.tgtype & 66 = 0 -- FOR EACH ROW, AFTER
           and own.tgname not like e'\x01%'
    loop
        -- The renaming of one calls this function again, which renames the others.
        continue when not exists (select from pg_trigger where tgrelid = late.relation and tgname = late.tgname);
        execute format('alter trigger %I on %s rename to %I', late.tgname, late.relation,
                       regexp_replace(late.tgname, '^!?', e'\x01'));
    end loop;
end $$;

-- What of which table is captured, as its triggers say. complete: none of them is missing.
create view pyreplica.captured_part as
    select t.tgrelid as relation, t.trigger_oid, t.enabled, o.tgattr as columns, o.tgqual as condition, o.oid as options,
           case when 'rows' = any (o.words) then 'rows' when 'changes' = any (o.words) then 'changes' end as filter_over,
           coalesce(o.operations, '{insert,update,delete,truncate}') as operations,
           coalesce('whole_rows' = any (o.words), false) as whole_rows,
           t.truncates = coalesce('truncate' = any (o.words), true)
             and t.row_triggers = coalesce(o.by_itself::int + cardinality(array_remove(o.operations, 'truncate')), 1)
             and (o.oid is not null or t.plain) as complete
      from (select tgrelid, min(oid) filter (where tgfoid = 'pyreplica.log_change'::regproc) as trigger_oid,
                   bool_and(tgenabled not in ('D', 'R') or pyreplica.is_options(tgargs)) as enabled,
                   count(*) filter (where tgfoid = 'pyreplica.log_change'::regproc) as row_triggers,
                   bool_or(tgfoid = 'pyreplica.log_truncate'::regproc) as truncates,
                   bool_or(tgtype & 28 = 28) as plain -- AFTER INSERT OR UPDATE OR DELETE
              from pg_trigger
             where tgparentid = 0 and tgfoid in ('pyreplica.log_change'::regproc, 'pyreplica.log_truncate'::regproc)
             group by tgrelid) t
           left join lateral (
                select p.oid, p.tgattr, p.tgqual, w.words, pyreplica.is_options(p.tgargs) as by_itself,
                       array(select op from unnest('{insert,update,delete,truncate}'::text[]) op where op = any (w.words))
                           as operations
                  from pg_trigger p, pyreplica.trigger_words(p.tgargs) w(words)
                 where p.tgrelid = t.tgrelid and p.tgparentid = 0 and p.tgfoid = 'pyreplica.log_change'::regproc
                   and p.tgnargs > 0) o on true
     where t.row_triggers > 0;

-- Triggers for TRUNCATE that were left without one for rows, by a partition, perhaps with partitions of its own, that was
-- detached for example. While a dump is restored it may be the partitions that have theirs first, and the root none yet.
create function pyreplica.drop_orphans() returns void
    language plpgsql set search_path = pg_catalog, pg_temp set pyreplica.drops_triggers = on as $$
declare
    log_change constant oid := 'pyreplica.log_change'::regproc;
    log_truncate constant oid := 'pyreplica.log_truncate'::regproc;
    orphan record;
begin
    for orphan in
        select tgname, tgrelid::regclass as relation
          from pg_trigger g, coalesce(pg_partition_root(g.tgrelid), g.tgrelid) root
         where g.tgfoid = log_truncate
           and not exists (select from pg_trigger c where c.tgrelid = g.tgrelid and c.tgfoid = log_change)
           and exists (select from pg_trigger r where r.tgrelid = root and r.tgfoid = log_truncate)
    loop
        execute format('drop trigger %I on %s', orphan.tgname, orphan.relation);
    end loop;
end $$;

-- Keeps captured tables captured when their definition changes: triggers that sort before ours, and partitions
-- attached, created or detached later. Row triggers come and go with partitions, those for TRUNCATE are ours to add
-- and drop. What a restored dump says of how they fire is what the node was that was dumped.
create function pyreplica.follow_ddl() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    late record;
    filled boolean;
    lost regclass;
begin
    -- Temporary tables are made often, and never captured.
    if not exists (select from pg_event_trigger_ddl_commands() where schema_name is distinct from 'pg_temp') then
        return;
    end if;
    select u.part into lost
      from pg_event_trigger_ddl_commands() d, pyreplica.unlogged_part(d.objid) u(part)
     where d.classid = 'pg_class'::regclass
       and exists (select from pg_trigger where tgrelid = u.part and tgfoid = 'pyreplica.log_change'::regproc);
    if found then
        raise exception using errcode = '42809', message = format('table %s is replicated and cannot be unlogged', lost),
            hint = 'A crash of the master would empty it and not the slaves.';
    end if;
    perform pyreplica.keep_first();
    -- Partitions that are older than the trigger for TRUNCATE above them get theirs by whoever makes that: add_table,
    -- or a dump that is restored and brings them all.
    for late in
        select c.tgrelid::regclass as relation
          from (select tgrelid, min(oid) as oldest from pg_trigger
                 where tgfoid = 'pyreplica.log_change'::regproc and tgparentid <> 0 group by tgrelid) c
         where exists (select from pg_trigger t where t.tgrelid in (select relid from pg_partition_ancestors(c.tgrelid))
                                                  and t.tgfoid = 'pyreplica.log_truncate'::regproc and t.oid < c.oldest)
           and not exists (select from pg_trigger t where t.tgrelid = c.tgrelid
                                                      and t.tgfoid = 'pyreplica.log_truncate'::regproc)
    loop
        perform pyreplica.attach_truncate(late.relation);
        execute format('select exists (select from only %s)', late.relation) into filled;
        if filled then
            raise warning using message = format('the rows that table %s holds already do not reach the slaves', late.relation),
                hint = 'Copy the partitioned table again with "replica_agent copy --slave NAME --table ...".';
        end if;
    end loop;
    perform pyreplica.drop_orphans();
    perform pyreplica.keep_firing();
end $$;

create event trigger pyreplica_follow_ddl on ddl_command_end
    when tag in ('CREATE TABLE', 'ALTER TABLE', 'CREATE TRIGGER', 'ALTER TRIGGER')
    execute function pyreplica.follow_ddl();
-- Agents run queued statements as replicas.
alter event trigger pyreplica_follow_ddl enable always;

create function pyreplica.add_table(relation regclass, columns name[] default null, row_filter text default null,
                                    operations text[] default null, whole_rows boolean default false) returns void
    language c as 'MODULE_PATHNAME', 'pyreplica_add_table';
comment on function pyreplica.add_table(regclass, name[], text, text[], boolean) is
    'starts capture of a table, or of a part of it; only its owner may';

create function pyreplica.remove_table(relation regclass) returns void
    language c as 'MODULE_PATHNAME', 'remove_table_wrapper';
comment on function pyreplica.remove_table(regclass) is 'stops capture of a table and leaves nothing behind';

create function pyreplica.add_all_tables(schema name, out relation regclass, out added boolean, out reason text)
    returns setof record language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    no record;
begin
    if schema is null then
        raise exception using errcode = '22004', message = 'schema must not be null', hint = 'Name the schema whose tables are to be added.';
    elsif not exists (select from pg_namespace where nspname = schema) then
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
    select c.oid::regclass as relation, n.nspname as schema_name, c.relname as table_name,
           (select array_agg(a.attname order by k.ord)
              from pg_index i, unnest(i.indkey) with ordinality k(attnum, ord)
              join pg_attribute a on a.attnum = k.attnum
             where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid) as key_columns,
           c.relkind = 'p' as partitioned, p.enabled and p.complete as enabled,
           (select array_agg(a.attname order by a.attnum) from pg_attribute a
             where a.attrelid = c.oid and a.attnum = any (p.columns)) as columns,
           case p.filter_over
               when 'rows' then pyreplica.filter_text(p.condition, 'rows', c.oid, null)
               -- Of OLD and NEW at the same time only PostgreSQL's own function knows to write.
               when 'changes'
               then substring(pg_get_triggerdef(p.options) from 'WHEN \(\(false AND (.*)\)\) EXECUTE FUNCTION')
           end as row_filter,
           p.operations, p.whole_rows
      from pyreplica.captured_part p join pg_class c on c.oid = p.relation join pg_namespace n on n.oid = c.relnamespace;
comment on view pyreplica.replicated_table is 'what is captured, and how';

-- Which rows of a captured table a copy of it has: a condition over a row named "new"; NULL for all of them.
create function pyreplica.copy_condition(relation regclass) returns text
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select pyreplica.filter_text(p.condition, p.filter_over, p.relation, 'new')
      from pyreplica.captured_part p where p.relation = $1 and p.filter_over is not null
$$;
comment on function pyreplica.copy_condition(regclass) is 'which rows of a captured table a copy of it has';
