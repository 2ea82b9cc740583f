-- The sequences that TRUNCATE ... RESTART IDENTITY of tables $1 (quoted and qualified) would restart, and what our role
-- may do with them.
with target as (
    select t::regclass::oid as oid from unnest($1::text[]) t
    union
    select p.relid::oid from unnest($1::text[]) t, pg_partition_tree(t::regclass) p
)
select distinct s.seqrelid, s.seqstart, pg_has_role(c.relowner, 'USAGE') as owned,
       has_sequence_privilege(c.oid, 'UPDATE') as updatable,
       format('%I.%I', n.nspname, c.relname) as name, quote_ident(current_user) as role
  from target
       join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = target.oid and d.refobjsubid > 0
                       and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
       join pg_sequence s on s.seqrelid = d.objid
       join pg_class c on c.oid = s.seqrelid
       join pg_namespace n on n.oid = c.relnamespace
 order by name
