-- Notes that agent $1 brings slave $2, from master $3, changes that were made on node $4. Gives the other masters from
-- which such changes come as well.
with noted as (
    insert into pyreplica_agent.source (agent, slave, master, node) values ($1, $2, $3, $4)
    on conflict (agent, slave, node) do update set master = excluded.master where source.master <> excluded.master
)
select string_agg(s.agent, ', ' order by s.agent)
  from pyreplica_agent.source s join pyreplica_agent.position p using (agent, slave)
 where s.node = $4 and s.master <> $3
