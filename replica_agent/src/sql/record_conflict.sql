-- $14, once only: a change that stops the slave meets the same row at every attempt.
insert into pyreplica_agent.conflict
       (agent, slave, conflict, relation, op, key, detail, applied, rank, xid, ts, username, origin)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::xid8, $11::timestamptz, $12, $13
 where not $14 or not exists (select from pyreplica_agent.conflict
                          where agent = $1 and slave = $2 and rank = $9 and conflict = $3 and relation = $4 and key = $6)
