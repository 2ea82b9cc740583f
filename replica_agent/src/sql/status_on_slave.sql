-- What agent $1 has written on its slave $2; $3 begins the names of its prepared transactions.
select p.rank, p.snapshot::text, p.batch, to_char(p.applied_at, 'YYYY-MM-DD HH24:MI:SSOF'),
       (select count(*) from pyreplica_agent.copied_table where agent = $1 and slave = $2),
       c.conflicts, to_char(c.last_at, 'YYYY-MM-DD HH24:MI:SSOF'),
       (select count(*) from pg_prepared_xacts where database = current_database() and starts_with(gid, $3))
  from (select count(*) as conflicts, max(at) as last_at
          from pyreplica_agent.conflict where agent = $1 and slave = $2) c
  left join pyreplica_agent.position p on p.agent = $1 and p.slave = $2
