-- What was asked to be set aside is set aside: statement $4 of transaction $3, or all of it; once on record.
with done as (
    update pyreplica_agent.skip set done_at = clock_timestamp()
     where agent = $1 and slave = $2 and xid = $3::text::xid8 and statement = $4 and done_at is null
    returning requested_by
)
insert into pyreplica_agent.conflict
       (agent, slave, conflict, relation, op, key, detail, applied, rank, xid, ts, username, origin)
select $1, $2, 'set_aside', '', case when $4 = 0 then 'TRANSACTION' else 'STATEMENT' end, '',
       concat_ws(' ', format('Set aside by %s.', requested_by), $5::text), false, $6, $3::text::xid8,
       $7::timestamptz, $8, $9
  from done
