-- What is captured stays captured until pyreplica.remove_table: the triggers go with nothing else but their table.
--
-- DROP ... CASCADE of what a filter uses (a function, a type, a column, a schema) takes triggers along, and so does
-- DROP TRIGGER; the changes would then be missing on the slaves, or some kinds of them, and nothing would say so.

create function pyreplica.keep_triggers() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    lost record;
begin
    -- Set by our own functions that drop them, and by who restores a dump over the tables, which drops the triggers first.
    if current_setting('pyreplica.drops_triggers', true) = 'on' then
        return;
    end if;
    -- The trigger is gone by now: its name is what is left of it. That of a table that is gone as well finds none.
    for lost in
        select d.address_names[3] as name, t.relation
          from pg_event_trigger_dropped_objects() d,
               to_regclass(format('%I.%I', d.address_names[1], d.address_names[2])) t(relation)
         where d.classid = 'pg_trigger'::regclass and d.address_names[3] ~ e'^[!\x01]pyreplica' and t.relation is not null
         order by d.address_names[3] collate "C"
    loop
        raise exception using errcode = '2BP01',
            message = format('table %s is replicated, and this would drop its trigger %I', lost.relation, lost.name),
            hint = 'Remove the table with pyreplica.remove_table first, and add it again afterwards. To restore a dump over it set pyreplica.drops_triggers = on.';
    end loop;
end $$;

create event trigger pyreplica_keep_triggers on sql_drop execute function pyreplica.keep_triggers();
-- Agents run queued statements as replicas.
alter event trigger pyreplica_keep_triggers enable always;
