-- Moves the sequences $1 (oids) forward to the values $2, used or not ($3). None is moved back; but on a circle (CYCLE)
-- nothing is ahead, so there the master is followed. A sequence of which no value was used yet shows where it stands
-- only to who reads it by its name, which ts_stat does: like query_to_xml it runs a text, but every server has it.
-- The master's count from $4 in steps of $5. One that counts between these is left alone; and one that counts otherwise
-- goes to the last of its own values that is not beyond the master's, so what it gives next is.
select pg_catalog.setval(s.seqrelid::regclass, m.value, m.called)
  from unnest($1::oid[], $2::bigint[], $3::boolean[], $4::bigint[], $5::bigint[]) t(sequence, value, called, start, step)
  join pg_sequence s on s.seqrelid = t.sequence
 cross join lateral (
        select case when (s.seqstart, s.seqincrement) = (t.start, t.step) then 0
                    else mod(mod(t.value::numeric - s.seqstart, s.seqincrement) + s.seqincrement, s.seqincrement)
               end as beyond) b
 cross join lateral (select (t.value - b.beyond)::numeric as value, t.called or b.beyond <> 0 as called) c
 cross join lateral (select case when c.value between s.seqmin and s.seqmax then c.value::bigint end as value, c.called) m
 where case
       when m.value is null
            or mod(s.seqstart::numeric - t.start, gcd(s.seqincrement::numeric, t.step::numeric)) <> 0
            or not has_sequence_privilege(s.seqrelid, 'SELECT') or not has_sequence_privilege(s.seqrelid, 'UPDATE')
       then false
       else (select case when s.seqcycle then (l.value, l.called) is distinct from (m.value, m.called)
                         when s.seqincrement > 0 then (l.value, l.called) < (m.value, m.called)
                         else l.value > m.value or l.value = m.value and l.called < m.called end
               from (select coalesce(u.used,
                                     (select word::bigint
                                        from ts_stat(format('select pg_catalog.array_to_tsvector(array[last_value::text]) from %s',
                                                            s.seqrelid::regclass)))) as value,
                            u.used is not null as called
                       from (select pg_sequence_last_value(s.seqrelid) as used offset 0) u) l)
       end
