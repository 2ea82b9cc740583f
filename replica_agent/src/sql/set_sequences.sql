-- Moves the sequences $1 (oids) forward to the values $2, used or not ($3). None is moved back; but on a circle (CYCLE)
-- nothing is ahead, so there the master is followed. A sequence of which no value was used yet shows where it stands
-- only to who reads it by its name, which query_to_xml does.
select pg_catalog.setval(s.seqrelid::regclass, m.value, m.called)
  from unnest($1::oid[], $2::bigint[], $3::boolean[]) m(sequence, value, called)
  join pg_sequence s on s.seqrelid = m.sequence
 where case
       when m.value not between s.seqmin and s.seqmax
            or not has_sequence_privilege(s.seqrelid, 'SELECT') or not has_sequence_privilege(s.seqrelid, 'UPDATE')
       then false
       else (select case when s.seqcycle then (l.value, l.called) is distinct from (m.value, m.called)
                         when s.seqincrement > 0 then (l.value, l.called) < (m.value, m.called)
                         else l.value > m.value or l.value = m.value and l.called < m.called end
               from (select coalesce(u.used,
                                     substring(query_to_xml(format('select last_value from %s', s.seqrelid::regclass),
                                                            true, false, '')::text
                                               from '<last_value>(-?[0-9]+)</last_value>')::bigint) as value,
                            u.used is not null as called
                       from (select pg_sequence_last_value(s.seqrelid) as used offset 0) u) l)
       end
