//! One binary; a line on each module.
