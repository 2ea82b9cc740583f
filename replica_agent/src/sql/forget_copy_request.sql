-- A request is done, or nobody waits for it any more.
delete from pyreplica_agent.copy_request
 where agent = $1 and slave = $2 and schema_name = $3 and table_name = $4
