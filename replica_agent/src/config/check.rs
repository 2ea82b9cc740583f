//! What must hold between the settings: names that are unique and fit, slaves that are databases of their own,
//! choices that go together.

use super::{invalid, CommitMode, Config, Initial};
use crate::error::Result;

/// PostgreSQL's limit for the identifier of a prepared transaction is 200 bytes with the final NUL; ours is
/// `pyreplica:<agent>:<slave>:<batch>` with at most 19 digits.
pub(super) const NAMES_BYTES_MAX: usize = 199 - "pyreplica:::".len() - 19;

impl Config {
    pub(super) fn check(&self) -> Result<()> {
        if self.slaves.is_empty() {
            return Err(invalid("no slave is configured").hint("Add a [[slave]] with name and dsn."));
        }
        check_name("agent", self.agent_name()).map_err(|e| match self.agent.name {
            Some(_) => e,
            None => {
                e.hint("It is the name of the master's database; give another with name = ... in [agent].")
            }
        })?;
        for (i, slave) in self.slaves.iter().enumerate() {
            check_name("slave", &slave.name)?;
            let bytes = self.agent_name().len() + slave.name.len();
            if bytes > NAMES_BYTES_MAX {
                return Err(invalid(format!("name of slave \"{}\" is too long", slave.name)).detail(format!(
                    "The names of agent and slave have {bytes} bytes together; there is room for {NAMES_BYTES_MAX} \
                     in the identifier of a prepared transaction."
                )));
            }
            if self.slaves[..i].iter().any(|other| other.name == slave.name) {
                return Err(invalid(format!("two slaves have the name \"{}\"", slave.name))
                    .hint("The name tells their positions apart; give each its own."));
            }
            if let Some(other) = self.slaves[..i].iter().find(|other| other.dsn.same_database(&slave.dsn)) {
                return Err(invalid(format!(
                    "slaves \"{}\" and \"{}\" are the same database",
                    other.name, slave.name
                ))
                .detail(format!("Both lead to {}.", slave.dsn)));
            }
            if slave.dsn.same_database(&self.master.dsn) {
                return Err(invalid(format!("slave \"{}\" is the master itself", slave.name))
                    .detail(format!("Both lead to {}.", slave.dsn)));
            }
            if slave.schema && slave.initial != Initial::Copy {
                return Err(invalid(format!("slave \"{}\" cannot have schema = true", slave.name)).detail(
                    "It makes tables for the initial copy, and the slave has another initial than \"copy\".",
                ));
            }
            if slave.schema && slave.mapping.has_other_shapes() {
                return Err(invalid(format!("slave \"{}\" cannot have schema = true", slave.name)).detail(
                    "The agent makes tables as they are on the master, and the slave has schemas, to, columns or values.",
                ));
            }
            if self.agent.commit == CommitMode::Atomic && !slave.two_phase {
                return Err(invalid(format!("slave \"{}\" cannot have two_phase = false", slave.name))
                    .detail(
                        "The agent has commit = \"atomic\", which needs PREPARE TRANSACTION on every slave.",
                    ));
            }
        }
        Ok(())
    }
}

/// A colon would make one prefix of prepared transactions the beginning of another's.
fn check_name(what: &str, name: &str) -> Result<()> {
    let fault = if name.is_empty() {
        "is empty"
    } else if name.contains(':') {
        "contains a colon"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else if name.trim() != name {
        "begins or ends with a blank"
    } else {
        return Ok(());
    };
    Err(invalid(format!("name of {what} {name:?} {fault}")))
}
