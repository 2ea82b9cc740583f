-- Which sequences are replicated: those owned by columns of captured tables, by themselves, and those that were added.
-- No trigger can be on a sequence, so the added ones need a register; pg_dump keeps it as it keeps the triggers.

create table pyreplica.added_sequence (
    relation regclass not null constraint added_sequence_pkey primary key
);
select pg_catalog.pg_extension_config_dump('pyreplica.added_sequence', '');

create view pyreplica.replicated_sequence as
    select c.oid::regclass as relation, n.nspname as schema_name, c.relname as sequence_name,
           o.refobjid::regclass as owned_by, a.attname as column_name
      from (select d.objid, d.refobjid, d.refobjsubid
              from pg_depend d
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
               and d.refobjsubid > 0 and d.deptype in ('a', 'i')
               and d.refobjid in (select tgrelid from pg_trigger where tgfoid = 'pyreplica.log_change'::regproc)) o
           full join pyreplica.added_sequence s on s.relation = o.objid
           join pg_class c on c.oid = coalesce(o.objid, s.relation) and c.relkind = 'S' and c.relpersistence = 'p'
           join pg_namespace n on n.oid = c.relnamespace
           left join pg_attribute a on a.attrelid = o.refobjid and a.attnum = o.refobjsubid;
comment on view pyreplica.replicated_sequence is
    'the sequences that slaves follow; owned_by: by themselves, with that captured table';

-- Private half of add_sequence, run as the extension's owner after the caller was found to own the sequence.
create function pyreplica.register_sequence(seq regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    c record;
begin
    select k.relkind, k.relpersistence, k.relnamespace = 'pyreplica'::regnamespace as ours into c
      from pg_class k where k.oid = seq;
    if c.relkind <> 'S' then
        raise exception using errcode = '42809', message = format('%s is not a sequence', seq),
            hint = 'Tables are added with pyreplica.add_table.';
    elsif c.ours then
        raise exception using errcode = '42809', message = format('%s belongs to the replication itself', seq),
            hint = 'Only sequences of your own can be replicated.';
    elsif c.relpersistence <> 'p' then
        raise exception using errcode = '42809', message = format('%s is a temporary or unlogged sequence', seq),
            hint = 'A crash of the master would reset it. Use ALTER SEQUENCE ... SET LOGGED first.';
    elsif exists (select from pyreplica.replicated_sequence where relation = seq) then
        raise exception using errcode = '42710', message = format('sequence %s is already replicated', seq),
            hint = 'Those owned by columns of captured tables are by themselves; see pyreplica.replicated_sequence.';
    end if;
    -- Some may have been dropped since they were added.
    delete from pyreplica.added_sequence s where not exists (select from pg_class k where k.oid = s.relation);
    insert into pyreplica.added_sequence values (seq) on conflict do nothing;
end $$;

-- Private half of remove_sequence.
create function pyreplica.forget_sequence(seq regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    delete from pyreplica.added_sequence where relation = seq;
    if found then
        return;
    end if;
    raise exception using errcode = '42704', message = format('sequence %s was not added', seq),
        hint = coalesce(
            (select format('It is replicated with table %s, which owns it. sequences = false in agent.toml leaves all '
                           'sequences of a slave alone.', owned_by)
               from pyreplica.replicated_sequence where relation = seq),
            'See pyreplica.replicated_sequence for those that are replicated.');
end $$;

create function pyreplica.add_sequence(sequence regclass) returns void
    language c as 'MODULE_PATHNAME', 'add_sequence_wrapper';
comment on function pyreplica.add_sequence(regclass) is 'has the slaves follow a sequence that no captured table owns; only its owner may';

create function pyreplica.remove_sequence(sequence regclass) returns void
    language c as 'MODULE_PATHNAME', 'remove_sequence_wrapper';
comment on function pyreplica.remove_sequence(regclass) is 'the slaves follow an added sequence no longer';

create function pyreplica.sequence_state(sequence oid) returns bigint[]
    strict language c as 'MODULE_PATHNAME', 'sequence_state_wrapper';
comment on function pyreplica.sequence_state(oid) is 'last value of a sequence and whether it was used (0, 1)';

create function pyreplica.moved_sequences("all" boolean) returns bigint[]
    strict language c as 'MODULE_PATHNAME', 'moved_sequences_wrapper';
comment on function pyreplica.moved_sequences(boolean) is
    'replicated sequences that moved since the session last asked, or all: oid, last value, used (0, 1) of each';

-- Runs a statement here and on all slaves, in its place among the changes.
create function pyreplica.replicate_ddl(statement text) returns void
    language c as 'MODULE_PATHNAME', 'replicate_ddl_wrapper';
comment on function pyreplica.replicate_ddl(text) is
    'runs statements here and on all slaves, in their place among the changes; for who may INSERT INTO pyreplica.replica_log';
