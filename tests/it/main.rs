//! One binary; a line on each module.

#![forbid(unsafe_code)]

mod harness; // the tests' own means: servers, and a comparison that sees differences

mod basic; // insert, update, delete; run and once; both kinds of commit
mod types; // every type, exactly, whatever the writer's session has set
mod identifiers; // names, numbers of columns and sizes of rows that are odd but legal
mod distance;
mod encoding; // a master that is not UTF-8
mod ordering; // concurrent commits, triggers, foreign keys, rules: the slave ends equal
mod late; // transactions that draw their rank early and commit late
mod savepoints; // what is rolled back never arrives
mod prepared; // two-phase transactions of users on the master
mod waking; // writers notify while somebody sleeps, and only then
mod together; // slaves that read the log together, and do not wait for each other
mod truncate; // TRUNCATE, also of several tables at once
mod partitions; // partitioned tables and inheritance
mod schema_change; // tables that change, come and go while they are replicated
mod statements; // replicate_ddl, INSERT INTO replica_log (sql)
mod skip; // what a slave cannot apply is set aside
mod sequences; // they follow the master's
mod log_view; // replica_log for people
mod log_tables; // what PostgreSQL, and those who look after it, do with the chunk tables
mod rotation; // the chunk tables are emptied, and nothing is left behind
mod async_commit; // synchronous_commit = off on the master
mod copy; // the initial copy
mod split_copy; // a large table, by several workers
mod schema; // the agent makes the tables of a slave
mod conflicts; // rows on a slave that are not what a change expects
mod policies; // what agent.toml says about rows of the slave's own
mod slave_triggers; // those that fire for replicated changes
mod setwise; // many changes at once, as their net effect
mod filters; // tables of which the master sends a part
mod mapping; // tables, schemas and columns that a slave has under other names, or has not
mod transforms; // rows that a slave keeps in another form
mod transform_history; // random histories of such rows, against a view
mod constraints; // those of a slave whose agent may not let them rest
mod privileges; // writers without rights, owners, least privilege for the agent
mod cli; // each bad input has one clear error
mod stages; // where the time of a slave goes
mod large; // values of many megabytes
mod memory; // what the agent takes of it
mod flush_ahead; // a session beside the one that applies, which may be lost
mod restart; // agent, master and slaves stop and come back
mod alerts; // mail and programs are told what happens
mod daemon; // several replications in one process, SIGHUP, systemd, logs
mod standby; // a second agent takes over
mod takeover; // sessions of a killed agent that are still at work on a slave
mod claim; // the same for sessions beside the one that serves the slave
mod multimaster; // nodes that are masters and slaves of each other
mod identity; // which database is which
mod topologies; // docs/topologies.md; sequences of several nodes
mod documentation; // README.md and docs/operations.md, followed as they are printed
mod crash; // kill -9 between each two steps
mod history; // random histories, replayable by their seed
