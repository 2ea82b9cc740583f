-- How far each slave is known to be.
--
-- The truth about a position is on the slave, committed with the data. What stands here follows lazily
-- (at most once a second) and is never ahead of it: it serves rotation and people.
-- One row per slave, a fill factor that keeps updates on the page (HOT), no index on what changes.

-- Table slave
-- Columns:
--   name          name of the slave in agent.toml
--   agent         name of the agent that serves it
--   state         copying, catching up, streaming, waiting (atomic group stalled by another slave), error, stopped, needs copy
--   state_since   when it took that state
--   rank          applied are the transactions with a rank up to this ...
--   snapshot      ... that this snapshot sees; NULL until the slave has a position
--   settled       of one chunk: up to this rank none comes that it does not see
--   applied_ts    time of the log (master's clock) of the last transaction applied
--   updated_at    when the agent last wrote this row
--   stages        where the time of the slave went, and how much it applied, since the agent started
--   last_error, sqlstate, hint, error_since   the error that stops it, NULL when nothing does
create table pyreplica.slave (
    name        text        not null,
    agent       text        not null,
    state       text        not null default 'stopped'
        constraint slave_state_known
        check (state in ('copying', 'catching up', 'streaming', 'waiting', 'error', 'stopped', 'needs copy')),
    state_since timestamptz not null default clock_timestamp(),
    rank        bigint,
    snapshot    pg_snapshot,
    settled     bigint      not null default 0,
    applied_ts  timestamptz,
    updated_at  timestamptz not null default clock_timestamp(),
    stages      jsonb,
    last_error  text,
    sqlstate    text,
    hint        text,
    error_since timestamptz,
    constraint slave_pkey primary key (agent, name),
    constraint slave_position_whole check ((rank is null) = (snapshot is null)),
    constraint slave_error_whole check ((last_error is null) = (error_since is null))
) with (fillfactor = 20);

-- Table decision: an atomic group's batch that all slaves have prepared; the row is the decision to commit it.
-- Deleted when every slave has committed.
create table pyreplica.decision (
    agent      text        not null,
    batch      bigint      not null,
    decided_at timestamptz not null default clock_timestamp(),
    constraint decision_pkey primary key (agent, batch)
);

-- Table horizon: what the log no longer holds. One row.
--   rank, xid     the largest of all chunks ever truncated; 0 when there are none.
-- A position with a smaller rank, or whose snapshot does not see an xid up to this, may miss changes.
create table pyreplica.horizon (
    only_row boolean not null default true constraint horizon_pkey primary key constraint horizon_one_row check (only_row),
    rank     bigint  not null default 0,
    xid      xid8    not null default '0'
);
insert into pyreplica.horizon default values;
