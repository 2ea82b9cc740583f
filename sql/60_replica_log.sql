-- The log for people, and the way to queue a statement for the slaves.

create function pyreplica.decode_chunk(payload bytea)
    returns table (n int, relation text, op text, key jsonb, new jsonb, old jsonb, sql text)
    stable strict language c as 'MODULE_PATHNAME', 'decode_chunk_wrapper';
comment on function pyreplica.decode_chunk(bytea) is 'the changes of one whole chunk';

-- A chunk that was cut into pieces, joined again; given its first piece.
create function pyreplica.join_pieces(of_xid xid8, of_seq bigint, first_id bigint) returns bytea
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select string_agg(payload, '' order by id)
      from pyreplica.log
     where chunks <> 1 and xid = of_xid and seq = of_seq and id >= first_id
       and id <= (select min(id) from pyreplica.log
                   where chunks <> 1 and xid = of_xid and seq = of_seq and id > first_id and piece = 3)
$$;

-- id tells changes apart and orders them as slaves apply them: a million for each rank. (The changes of a larger
-- transaction share ids with those that follow.)
create view pyreplica.replica_log as
    select (c.rank - 1) * 1000000 + row_number() over (partition by c.xid order by c.seq, c.id, d.n) as id,
           c.xid, c.ts, c.username, c.origin, d.relation, d.op, d.key, d.new, d.old, d.sql
      from (select l.*, max(l.id) over (partition by l.xid) as rank from pyreplica.log l) c
           cross join lateral pyreplica.decode_chunk(
               case when c.piece = 1 then pyreplica.join_pieces(c.xid, c.seq, c.id) else c.payload end) d
     where c.piece in (0, 1)
     order by c.rank, c.seq, c.id, d.n;
comment on view pyreplica.replica_log is 'changes in the order in which slaves apply them; INSERT (sql) queues a statement for all slaves';

create function pyreplica.log_statement() returns trigger
    language c as 'MODULE_PATHNAME', 'pyreplica_log_statement';
comment on function pyreplica.log_statement() is 'INSTEAD OF INSERT trigger of replica_log';

create trigger "!pyreplica" instead of insert on pyreplica.replica_log
    for each row execute function pyreplica.log_statement();
