-- Sequences of nodes that are all written to: each counts in steps of its own, so no two ever give the same value.

-- The value nearest to `value`, from there on upwards (up) or downwards, that is node_offset modulo nodes.
create function pyreplica.own_value(value numeric, node_offset int, nodes int, up boolean) returns numeric
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case when up then value + mod(mod(node_offset - value, nodes) + nodes, nodes)
                        else value - mod(mod(value - node_offset, nodes) + nodes, nodes) end
$$;

create function pyreplica.spread_sequences(schema name, node_offset int, nodes int,
                                           out sequence regclass, out start bigint, out increment bigint)
    returns setof record language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    s record;
    up boolean;
    upcoming numeric;
    used numeric;
    first numeric;
    edge numeric;
begin
    if schema is null or node_offset is null or nodes is null then
        raise exception using errcode = '22004',
            message = format('%s must not be null', case when schema is null then 'schema'
                                                         when node_offset is null then 'node_offset' else 'nodes' end),
            hint = 'Name the schema, the number of this node, and how many nodes there are.';
    elsif not exists (select from pg_namespace where nspname = schema) then
        raise exception using errcode = '3F000', message = format('schema %I does not exist', schema);
    end if;
    if nodes < 1 then
        raise exception using errcode = '22023', message = 'nodes must be 1 or more';
    end if;
    if node_offset not between 1 and nodes then
        raise exception using errcode = '22023',
            message = format('node_offset must be between 1 and nodes, which is %s', nodes),
            hint = 'Give each node a number of its own, and all of them the same number of nodes.';
    end if;
    for s in
        select c.oid, q.seqincrement, q.seqstart, q.seqmin, q.seqmax, q.seqcycle,
               d.refobjid::regclass as owner, a.attname as owner_column
          from pg_class c
               join pg_namespace n on n.oid = c.relnamespace
               join pg_sequence q on q.seqrelid = c.oid
               left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
                                    and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                                    and d.deptype in ('a', 'i')
               left join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
         where n.nspname = schema
         order by c.relname collate "C"
    loop
        sequence := s.oid;
        up := s.seqincrement > 0;
        increment := case when up then nodes else -nodes end;
        -- Takes the lock, after which nobody draws a value before we are done.
        execute format('alter sequence %s increment by %s', sequence, increment);

        execute format('select case when is_called then last_value + %s else last_value end from %s',
                       case when up then 1 else -1 end, sequence) into upcoming;
        -- Rows may have come from another node.
        if s.owner_column is not null then
            execute format('select %s(%I) from %s', case when up then 'max' else 'min' end, s.owner_column, s.owner)
                into used;
            upcoming := case when up then greatest(upcoming, used + 1) else least(upcoming, used - 1) end;
        end if;
        upcoming := pyreplica.own_value(upcoming, node_offset, nodes, up);
        -- TRUNCATE ... RESTART IDENTITY goes back to START, a cycle to the edge.
        first := pyreplica.own_value(s.seqstart, node_offset, nodes, up);
        edge := pyreplica.own_value(case when up then s.seqmin else s.seqmax end, node_offset, nodes, up);
        if s.seqcycle and upcoming not between s.seqmin and s.seqmax then
            upcoming := edge;
        end if;
        if greatest(upcoming, first, edge) > s.seqmax or least(upcoming, first, edge) < s.seqmin then
            raise exception using errcode = '2200H',
                message = format('sequence %s has no value left for node %s of %s', sequence, node_offset, nodes),
                detail = format('The next one would be %s; the sequence goes from %s to %s.', upcoming, s.seqmin, s.seqmax),
                hint = 'Give the sequence, and the column that it fills, a larger type.';
        end if;
        execute format('alter sequence %s start with %s restart with %s %s', sequence, first, upcoming,
                       case when not s.seqcycle then ''
                            else format('%s %s', case when up then 'minvalue' else 'maxvalue' end, edge) end);
        start := upcoming;
        return next;
    end loop;
end $$;
comment on function pyreplica.spread_sequences(name, int, int) is
    'gives each sequence of a schema the values that are node_offset modulo nodes';
