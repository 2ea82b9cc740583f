-- Which node of a topology this database is, and whether it forwards: logs what agents apply to it, for slaves of its own.

-- Table node: one row.
--   id         stands in the origin of every change that has been through this node. A random one, made here and not
--              dumped: what is restored from a dump is another node.
--   name       for people; UPDATE it as you like
--   forwards   see pyreplica.forward
create table pyreplica.node (
    only_row boolean not null default true constraint node_pkey primary key constraint node_one_row check (only_row),
    id       text    not null constraint node_id_form check (id ~ '^n[0-9a-f]{8}$'),
    name     text    not null,
    forwards boolean not null default false
);
comment on table pyreplica.node is 'which node this database is';

-- Short, since origins hold several of them; and told from the words that users set as origin by its form.
create function pyreplica.new_node_id() returns text
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    select 'n' || left(gen_random_uuid()::text, 8)
$$;

insert into pyreplica.node (id, name) values (pyreplica.new_node_id(), current_database());

create function pyreplica.renew_node() returns text
    language sql volatile set search_path = pg_catalog, pg_temp as $$
    update pyreplica.node set id = pyreplica.new_node_id() returning id
$$;
comment on function pyreplica.renew_node() is 'makes a physical copy of a node another node';

-- Where the node forwards our triggers fire for replicas too (ENABLE ALWAYS), and only there. None is disabled, or changes
-- would be missing on the slaves and nothing would say so: DISABLE TRIGGER ALL, as before a load, is not about ours. The one
-- of options is, since it never fires.
create function pyreplica.keep_firing() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    wanted constant boolean := (select forwards from pyreplica.node);
    wrong record;
begin
    for wrong in
        select tgname, tgrelid::regclass as relation, pyreplica.is_options(tgargs) as options,
               tgenabled in ('D', 'R') and tgparentid = 0 as disabled
          from pg_trigger
         where tgfoid in ('pyreplica.log_change'::regproc, 'pyreplica.log_truncate'::regproc)
           and tgenabled <> case when pyreplica.is_options(tgargs) then 'D' when wanted then 'A' else 'O' end
         order by tgparentid
    loop
        if wrong.disabled then
            raise warning using message = format('trigger %I of table %s stays enabled', wrong.tgname, wrong.relation),
                detail = 'The table is replicated.', hint = 'To stop that use pyreplica.remove_table.';
        end if;
        execute format('alter table %s %s trigger %I', wrong.relation,
                       case when wrong.options then 'disable' when wanted then 'enable always' else 'enable' end,
                       wrong.tgname);
    end loop;
end $$;

create function pyreplica.forward(wanted boolean default true) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if wanted is null then
        raise exception using errcode = '22004', message = 'wanted must not be null',
            hint = 'true has the node forward what agents apply here, false ends that.';
    end if;
    -- Agents hold it in share mode while they apply: each of their transactions goes by one rule.
    perform pg_advisory_xact_lock(1887007333, 1);
    update pyreplica.node set forwards = wanted;
    perform pyreplica.keep_firing();
end $$;
comment on function pyreplica.forward(boolean) is 'whether what agents apply here is logged for the slaves of this node';
