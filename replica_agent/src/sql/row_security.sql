-- Captured tables of which row security hides rows from our role.
select relation::text from pyreplica.replicated_table where row_security_active(relation::oid) order by 1
