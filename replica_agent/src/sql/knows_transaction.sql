-- Does the log hold, or has it held and passed on, the transaction with rank $1?
select exists (select from pyreplica.log where final and id = $1 and xid = $2::text::xid8)
       or exists (select from pyreplica.horizon where rank >= $1)
