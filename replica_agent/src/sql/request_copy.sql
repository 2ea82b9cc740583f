-- Asks for a table of a slave to be copied.
insert into pyreplica_agent.copy_request as r (agent, slave, schema_name, table_name)
values ($1, $2, $3, $4)
    on conflict (agent, slave, schema_name, table_name) do update set error = null
