-- Nodes whose changes agent $1 brings slave $2 from master $3, has brought or is to bring (those in $4), and which come from
-- another master as well: each with the agents that bring them.
select o.node, string_agg(distinct o.agent, ', ' order by o.agent)
  from pyreplica_agent.source o join pyreplica_agent.position p using (agent, slave)
 where o.master <> $3
   and (o.agent, o.slave) <> ($1, $2) -- as another node, before its extension was created anew
   and (o.node = any($4)
        or o.node in (select node from pyreplica_agent.source where agent = $1 and slave = $2))
 group by o.node
 order by o.node
