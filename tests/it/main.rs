//! One binary; a line on each module.

#![forbid(unsafe_code)]

mod harness; // the tests' own means: servers, and a comparison that sees differences
