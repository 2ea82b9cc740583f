//! The checks of a slave's sequences against the master's. None keeps the slave from following, so all are warnings.
//!
//! In: a session on the slave and the sequences of the master. Out: findings in the `Report`. Changes nothing.

use postgres::Client;

use crate::check::{MasterFacts, Report};
use crate::config::Slave;
use crate::error::Result;
use crate::quote;
use crate::sequences::{is_wanted, on_slave, Bounds, Sequence};

pub(crate) fn check(
    client: &mut Client,
    slave: &Slave,
    user: &str,
    facts: &MasterFacts,
    report: &mut Report,
) -> Result<()> {
    let at = format!("slave \"{}\"", slave.name);
    let wanted: Vec<_> =
        facts.sequences.iter().filter(|(moved, _)| is_wanted(&slave.mapping, &moved.sequence)).collect();
    let sequences: Vec<&Sequence> = wanted.iter().map(|(moved, _)| &*moved.sequence).collect();
    let (mut missing, mut refused) = (Vec::new(), Vec::new());
    for ((moved, on_master), found) in wanted.into_iter().zip(on_slave(client, &slave.mapping, &sequences)?) {
        let name = moved.sequence.full_name();
        match found {
            // It comes with its table.
            None if slave.schema && moved.sequence.owner.is_some() => {}
            None => missing.push(name),
            Some(found) if !found.lacks.is_empty() => refused.push(found.name),
            Some(found) if found.bounds != *on_master => report.warning(
                format!(
                    "{at}: sequence {name} is {}, on the master {}",
                    defined(&found.bounds),
                    defined(on_master)
                ),
                format!("Run there: ALTER SEQUENCE {} {}.", found.name, defined(on_master)),
            ),
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        report.warning(
            format!("{at}: these sequences do not exist and are not followed: {}", missing.join(", ")),
            "Create them as on the master, or set sequences = false for the slave.",
        );
    }
    if !refused.is_empty() {
        let role = quote::ident(user);
        report.warning(
            format!("{at}: role \"{user}\" may not set these sequences, so they are not followed: {}", refused.join(", ")),
            format!(
                "Run there: GRANT SELECT, UPDATE ON SEQUENCE {} TO {role} (and USAGE on their schemas); or set sequences = \
                 false for the slave.",
                refused.join(", ")
            ),
        );
    }
    Ok(())
}

/// As ALTER SEQUENCE takes it.
fn defined(bounds: &Bounds) -> String {
    let Bounds { increment, min, max, cycle } = bounds;
    let cycle = if *cycle { "CYCLE" } else { "NO CYCLE" };
    format!("INCREMENT {increment} MINVALUE {min} MAXVALUE {max} {cycle}")
}
