-- The extension owns its schema: DROP EXTENSION takes everything with it.
create schema pyreplica;
comment on schema pyreplica is 'PyReplica: log of changes for replication to slaves';
