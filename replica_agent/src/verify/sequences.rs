//! Compares sequences: a slave's must not be behind the master's. Ahead is no difference, since none is set back.
//!
//! In: the sequences as the master has them now, and some patience. Out: a line for each, and whether none is behind.

use std::time::{Duration, Instant};

use super::{stopped, Pair};
use crate::copy::CapturedTable;
use crate::error::{Error, Result};
use crate::sequences::{is_wanted, on_master, on_slave, Bounds, Found, Moved, Sequence};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `tables`: only those that they own. `patience`: what a running agent may take to notice a value that no row has used.
pub(super) fn compare(
    pair: &mut Pair,
    tables: Option<&[CapturedTable]>,
    patience: Duration,
    out: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<bool> {
    let mut sequences = on_master(pair.master, None)?;
    let mapping = &pair.which.mapping;
    sequences.retain(|(moved, _)| is_wanted(mapping, &moved.sequence));
    if let Some(tables) = tables {
        sequences.retain(|(moved, _)| {
            moved.sequence.owner.as_ref().is_some_and(|(schema, table, _)| {
                tables.iter().any(|t| (&t.schema, &t.name) == (schema, table))
            })
        });
    }
    let names: Vec<&Sequence> = sequences.iter().map(|(moved, _)| &*moved.sequence).collect();
    let found = on_slave(pair.slave, mapping, &names)?;
    let deadline = Instant::now() + patience;
    let mut equal = true;
    for ((moved, bounds), found) in sequences.iter().zip(found) {
        let place = format!("slave \"{}\", sequence {}", pair.which.name, moved.sequence.full_name());
        let Some(found) = found else {
            out(&format!("{place}: is not there, and not followed"))?;
            continue;
        };
        if !found.lacks.is_empty() {
            out(&format!("{place}: cannot be read or set, and is not followed"))?;
            continue;
        }
        if found.goes_between(&moved.sequence) {
            out(&format!("{place}: gives values between the master's, and does not follow"))?;
            continue;
        }
        let mut here = state(pair, &found)?;
        while is_behind(here, moved, bounds) && Instant::now() < deadline {
            if pair.stop.wait(LOOK_EVERY) {
                return Err(stopped());
            }
            here = state(pair, &found)?;
        }
        let behind = is_behind(here, moved, bounds);
        equal &= !behind;
        let verdict = match here == (moved.value, moved.called) {
            true => "equal".to_owned(),
            false if behind => format!("behind the master's {}", shown((moved.value, moved.called))),
            false => format!("not behind the master's {}", shown((moved.value, moved.called))),
        };
        out(&format!("{place}: {}, {verdict}", shown(here)))?;
    }
    Ok(equal)
}

fn state(pair: &mut Pair, found: &Found) -> Result<(i64, bool)> {
    let row = pair
        .slave
        .query_one(&format!("select last_value, is_called from {}", found.name), &[])
        .map_err(|e| Error::from_pg(format!("could not read sequence {}", found.name), e))?;
    Ok((row.get(0), row.get(1)))
}

/// On a circle nothing is behind, but what differs.
fn is_behind(here: (i64, bool), there: &Moved, bounds: &Bounds) -> bool {
    let there = (there.value, there.called);
    match (bounds.cycle, bounds.increment > 0) {
        (true, _) => here != there,
        (false, true) => here < there,
        (false, false) => (there.0, here.1) < (here.0, there.1),
    }
}

fn shown((value, called): (i64, bool)) -> String {
    format!("{value}{}", if called { "" } else { " (not used)" })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn behind_is_where_the_next_value_has_been_used() {
        let sequence =
            Sequence { oid: 1, schema: "s".into(), name: "q".into(), owner: None, start: 1, increment: 1 };
        let sequence = Arc::new(sequence);
        let check = |here, (value, called), increment, cycle, behind| {
            let there = Moved { sequence: Arc::clone(&sequence), value, called };
            let bounds = Bounds { increment, min: 1, max: 9, cycle };
            assert_eq!(is_behind(here, &there, &bounds), behind, "{here:?} {there:?} {bounds:?}");
        };
        check((5, true), (6, true), 1, false, true);
        check((5, false), (5, true), 1, false, true);
        check((5, true), (5, false), 1, false, false);
        check((7, true), (6, true), 1, false, false);
        check((5, true), (6, true), -1, false, false);
        check((7, true), (6, true), -1, false, true);
        check((5, false), (5, true), -1, false, true);
        check((5, true), (5, true), -1, false, false);
        check((7, true), (2, true), 1, true, true);
        check((2, true), (2, true), 1, true, false);
    }
}
