-- The log: what the trigger writes and the agent reads. Columns and payload: docs/log-format.md.
--
-- Three tables take turns. Writers use the one that log_current names; a table is emptied by TRUNCATE once
-- every slave has applied all of it (pyreplica.rotate_log), so the log knows no DELETE and no bloat.
-- The trigger writes them straight into the heap: nobody needs, or is granted, INSERT.
-- payload is STORAGE PLAIN: a chunk fits a page, and nothing tries to compress or move it.
-- autovacuum is off: rows are never updated or deleted, and TRUNCATE starts with fresh files.

-- Ids of chunks. Cache 1: of two transactions of which one waited for the other, the later draws the larger id.
create sequence pyreplica.log_id as bigint cache 1;

-- Which table writers use: 0, 1 or 2. Read without a lock and set by setval: a writer with a stale value
-- does no harm, since rotation empties a table only under a lock that every writer of it has released.
create sequence pyreplica.log_current as bigint minvalue 0 maxvalue 2 start 0 cache 1;

-- Counts the times that a reader of the log lay down to sleep: a session notifies once for each.
create sequence pyreplica.log_sleep as bigint cache 1;

create table pyreplica.log_0 (
    id       bigint      not null,
    xid      xid8        not null,
    ts       timestamptz not null,
    seq      bigint      not null,
    changes  int         not null,
    chunks   int         not null,
    piece    smallint    not null,
    final    boolean     not null,
    async    boolean     not null,
    origin   text,
    username text,
    payload  bytea       not null
) using heap with (autovacuum_enabled = off);
alter table pyreplica.log_0 alter payload set storage plain, alter origin set storage plain, alter username set storage plain;
create table pyreplica.log_1 (like pyreplica.log_0 including storage) using heap with (autovacuum_enabled = off);
create table pyreplica.log_2 (like pyreplica.log_0 including storage) using heap with (autovacuum_enabled = off);

-- In each table the trigger maintains exactly these two indexes, found by their names, and what REINDEX CONCURRENTLY
-- puts in their place. What a small transaction pays
-- for is the first: the other has the chunks of transactions that have several.
create index log_0_rank on pyreplica.log_0 (id) where final;
create index log_1_rank on pyreplica.log_1 (id) where final;
create index log_2_rank on pyreplica.log_2 (id) where final;
create index log_0_xid on pyreplica.log_0 (xid, seq, id) where chunks <> 1;
create index log_1_xid on pyreplica.log_1 (xid, seq, id) where chunks <> 1;
create index log_2_xid on pyreplica.log_2 (xid, seq, id) where chunks <> 1;

create view pyreplica.log as
    select * from pyreplica.log_0
    union all select * from pyreplica.log_1
    union all select * from pyreplica.log_2;
comment on view pyreplica.log is 'the chunk tables together, for the agent';
