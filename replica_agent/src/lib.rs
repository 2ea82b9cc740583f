//! The agent: reads the log of a PyReplica master and applies it to its slaves.
//!
//! Modules in reading order. Data flows one way, reader -> applier -> commit; only the position comes back, and
//! `pipeline` and `group` alone know them all.
#![forbid(unsafe_code)]

pub mod error;
pub mod retry;
pub mod quote;
mod lexer;
pub mod wake;
pub mod failpoint;
pub mod config;
pub mod mapping;
pub mod dsn;
mod pgpass;
mod tls;
pub mod session;
pub mod position;
pub mod decode;
pub mod rest;
pub mod large;
pub mod sequences;
pub mod reader;
pub mod stages;
pub mod plan;
pub mod tables;
pub mod slave_table;
mod expression;
mod log_columns;
mod own_types;
pub mod statement;
pub mod set_statement;
pub mod transform;
pub mod conflict;
pub mod bind;
pub mod failure;
pub mod skip;
pub mod applier;
pub mod identity;
pub mod commit;
pub mod control;
pub mod report;
pub mod hub;
pub mod feed;
pub mod follow;
pub mod group;
pub mod pipeline;
pub mod copy;
pub mod schema;
pub mod again;
pub mod recopy;
pub mod skip_command;
pub mod shape;
pub mod check;
mod check_slave;
mod check_mapping;
mod check_sequences;
pub mod verify;
pub mod status;
pub mod logging;
mod signals;
pub mod cli;
