//! Foreign keys between a slave's tables, where they are looked at: in which order tables are filled, and which belong together.
//!
//! In: tables by their names on the slave. Out: what is referred to comes first, to be filled first and emptied last.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::session::Ask;

/// Tables that foreign keys connect, however many are between two of them; what is referred to first.
pub struct Connected<T> {
    pub tables: Vec<T>,
    /// There is no such order, some refer to each other. Where there is a way, keys that cannot be deferred have it.
    pub circular: bool,
}

/// Brings what others refer to to the front; `name` gives a table's name on the slave, quoted and qualified. Tables that
/// refer to each other stay as they are.
pub fn sort<T>(slave: &mut impl Ask, tables: &mut Vec<T>, name: impl Fn(&T) -> String) -> Result<()> {
    if tables.len() < 2 {
        return Ok(());
    }
    let keys = Keys::read(slave, tables.iter().map(name).collect())?;
    let (order, _) = keys.order((0..tables.len()).collect());
    let mut unsorted: Vec<Option<T>> = tables.drain(..).map(Some).collect();
    tables.extend(order.into_iter().filter_map(|place| unsorted[place].take()));
    Ok(())
}

/// The tables, by what foreign keys connect. One that refers to itself is a circle if it comes in pieces: a row may then
/// refer to one of a later statement.
pub fn connected<T>(
    slave: &mut impl Ask,
    tables: Vec<T>,
    name: impl Fn(&T) -> String,
    in_pieces: impl Fn(&T) -> bool,
) -> Result<Vec<Connected<T>>> {
    let keys = Keys::read(slave, tables.iter().map(name).collect())?;
    let mut unsorted: Vec<Option<T>> = tables.into_iter().map(Some).collect();
    let ordered = keys.connected().into_iter().map(|places| {
        let (order, circular) = keys.order(places);
        let itself = |place: usize| keys.0[place].iter().any(|&(other, _)| other == place);
        let circular = circular
            || order.iter().any(|&place| itself(place) && unsorted[place].as_ref().is_some_and(&in_pieces));
        let tables = order.into_iter().filter_map(|place| unsorted[place].take()).collect();
        Connected { tables, circular }
    });
    Ok(ordered.collect())
}

/// For each table those that it refers to, itself included, and whether that can wait for the end of a transaction.
struct Keys(Vec<Vec<(usize, bool)>>);

impl Keys {
    fn read(slave: &mut impl Ask, names: Vec<String>) -> Result<Keys> {
        let rows = slave
            .query(include_str!("sql/references.sql"), &[&names])
            .map_err(|e| Error::from_pg("could not read the foreign keys of the slave", e))?;
        let mut keys = vec![Vec::new(); names.len()];
        for row in &rows {
            let place = |i| usize::try_from(row.get::<_, i64>(i)).unwrap_or_default();
            keys[place(0)].push((place(1), row.get(2)));
        }
        Ok(Keys(keys))
    }

    /// Those that are connected, each and among each other in the order of their places.
    fn connected(&self) -> Vec<Vec<usize>> {
        let mut first: Vec<usize> = (0..self.0.len()).collect();
        for (table, keys) in self.0.iter().enumerate() {
            for (other, _) in keys {
                let (one, two) = (first[table].min(first[*other]), first[table].max(first[*other]));
                first.iter_mut().filter(|first| **first == two).for_each(|first| *first = one);
            }
        }
        let mut connected: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (table, first) in first.into_iter().enumerate() {
            connected.entry(first).or_default().push(table);
        }
        connected.into_values().collect()
    }

    /// What is referred to first; true when that is not to be had.
    fn order(&self, mut left: Vec<usize>) -> (Vec<usize>, bool) {
        let (mut order, mut circular) = (Vec::with_capacity(left.len()), false);
        let mut is_left = vec![false; self.0.len()];
        left.iter().for_each(|&table| is_left[table] = true);
        while !left.is_empty() {
            let waits = |table: &usize, also_deferrable: bool| {
                self.0[*table]
                    .iter()
                    .filter(|(other, _)| other != table)
                    .any(|&(other, deferrable)| is_left[other] && (also_deferrable || !deferrable))
            };
            let free = left.iter().position(|table| !waits(table, true)).or_else(|| {
                circular = true;
                left.iter().position(|table| !waits(table, false))
            });
            let table = left.remove(free.unwrap_or(0));
            is_left[table] = false;
            order.push(table);
        }
        (order, circular)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFERRABLE: bool = true;

    fn check(tables: usize, keys: &[(usize, usize, bool)], expected: &[(&[usize], bool)]) {
        let mut of = vec![Vec::new(); tables];
        keys.iter().for_each(|&(from, to, deferrable)| of[from].push((to, deferrable)));
        let keys = Keys(of);
        let found: Vec<_> = keys.connected().into_iter().map(|places| keys.order(places)).collect();
        let expected: Vec<_> = expected.iter().map(|(order, circular)| (order.to_vec(), *circular)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_connected_stands_together_and_in_order() {
        check(3, &[], &[(&[0], false), (&[1], false), (&[2], false)]);
        check(
            5,
            &[(0, 3, false), (1, 4, false), (3, 2, DEFERRABLE)],
            &[(&[2, 3, 0], false), (&[4, 1], false)],
        );
        // Two that refer to the same third.
        check(3, &[(0, 2, false), (1, 2, false)], &[(&[2, 0, 1], false)]);
        // In a circle, what cannot wait has its way.
        check(2, &[(0, 1, false), (1, 0, DEFERRABLE)], &[(&[1, 0], true)]);
        check(2, &[(0, 1, DEFERRABLE), (1, 0, DEFERRABLE)], &[(&[0, 1], true)]);
        check(2, &[(0, 1, false), (1, 0, false)], &[(&[0, 1], true)]);
        // To itself, a table refers in any order.
        check(2, &[(0, 0, false), (0, 1, false), (1, 1, DEFERRABLE)], &[(&[1, 0], false)]);
    }
}
