//! Throw-away servers and the real agent, for tests and the demo. In reading order.

#![forbid(unsafe_code)]

pub mod keeper;
pub mod smtp;
pub mod service;
pub mod proxy;
pub mod wait;
pub mod cluster;
pub mod db;
pub mod agent;
pub mod check;
pub mod trio;
pub mod nodes;
pub mod every_type;
pub mod doc;
pub mod random;
