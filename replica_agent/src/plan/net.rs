//! The net effect while it is being found: rows by the key that they have by now. Its room serves one window after the
//! other.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use hashbrown::hash_table::Entry as Slot;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Cell, Key, Lost, Place, Plan, RelationInfo, Row, TablePlan, Update, UpdateGroup, NULL};
use crate::decode::{Change, Changed, Decoder, Value};
use crate::position::Xid;
use crate::reader::Chunk;

#[derive(Default)]
pub(super) struct NetEffect {
    pub(super) places: Vec<Place>,
    pub(super) cells: Vec<Cell>,
    relations: Vec<Met>,
    /// Into `relations`.
    by_oid: HashMap<u32, usize>,
    /// Partitions are relations each and rows move between them: a key belongs to the name they share.
    names: Vec<(String, String)>,
    entries: Vec<Entry>,
    /// Entries that are rows, by name and key.
    live: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The changes make no sense one after the other, as far as can be seen from here.
    odd: bool,
}

/// A relation that the window met.
struct Met {
    info: RelationInfo,
    name: u32,
    xids: (Xid, Xid),
    lost: Lost,
}

struct Entry {
    relation: u32,
    /// Of name and key.
    hash: u64,
    /// Place of the key that it has by now.
    key: u32,
    net: Net,
}

/// What is to be done about a row. Numbers are first places of keys and rows, and first cells.
#[derive(Clone, Copy)]
enum Net {
    Nothing,
    Insert { row: u32 },
    Update { key: u32, cells: u32, count: u32, row: Option<u32> },
    Delete { key: u32 },
}

/// The last of `chunks`, which is being added.
#[derive(Clone, Copy)]
struct Source<'c> {
    chunks: &'c [Chunk],
    number: u32,
    base: usize,
}

impl Source<'_> {
    /// Where a value of the chunk stands in it.
    fn place(self, value: Value) -> Place {
        match value {
            None => Place { chunk: self.number, start: 0, length: NULL },
            Some(bytes) => Place {
                chunk: self.number,
                start: (bytes.as_ptr() as usize - self.base) as u32,
                length: bytes.len() as u32,
            },
        }
    }
}

impl NetEffect {
    /// Adds the changes of the last chunk, all or none; false when it has to be applied by itself, or does not go
    /// together with what was added before.
    pub(super) fn add(&mut self, chunks: &[Chunk]) -> bool {
        let Some(chunk) = chunks.last() else { return true };
        let Some((decoder, changes)) = rows_changed(&chunk.payload) else { return false };
        let Some(relations) = self.meet(&decoder, chunk.transaction.xid) else { return false };
        let source =
            Source { chunks, number: chunks.len() as u32 - 1, base: chunk.payload.as_ptr() as usize };
        for change in &changes {
            match change {
                Change::Insert { relation, row } => self.insert(source, relations[*relation], row),
                Change::Update { relation, key, changed, row } => {
                    self.update(source, relations[*relation], key, changed, row.as_deref());
                }
                Change::Delete { relation, key } => self.delete(source, relations[*relation], key),
                Change::Truncate { .. } | Change::Statement { .. } => {}
            }
        }
        true
    }

    /// Our numbers for the relations of a chunk; `None` when one of them has been altered since it was met,
    /// or in the middle of the chunk.
    fn meet(&mut self, decoder: &Decoder, xid: Xid) -> Option<Vec<usize>> {
        for (i, relation) in decoder.relations().iter().enumerate() {
            let met = self.by_oid.get(&relation.oid).map(|&number| &self.relations[number].info);
            let mut twice = decoder.relations()[..i].iter().filter(|r| r.oid == relation.oid);
            if met.is_some_and(|info| !info.fits(relation))
                || twice.any(|r| !RelationInfo::of(r).fits(relation))
            {
                return None;
            }
        }
        let mut numbers = Vec::with_capacity(decoder.relations().len());
        for relation in decoder.relations() {
            let number = match self.by_oid.get(&relation.oid) {
                Some(&number) => {
                    self.relations[number].info.join(relation);
                    number
                }
                None => {
                    let named = |(schema, name): &(String, String)| {
                        (schema.as_str(), name.as_str()) == (relation.schema, relation.name)
                    };
                    let name = self.names.iter().position(named).unwrap_or_else(|| {
                        self.names.push((relation.schema.to_owned(), relation.name.to_owned()));
                        self.names.len() - 1
                    });
                    let info = RelationInfo::of(relation);
                    self.relations.push(Met {
                        info,
                        name: name as u32,
                        xids: (xid, xid),
                        lost: Lost::default(),
                    });
                    self.by_oid.insert(relation.oid, self.relations.len() - 1);
                    self.relations.len() - 1
                }
            };
            let (least, greatest) = &mut self.relations[number].xids;
            (*least, *greatest) = (xid.min(*least), xid.max(*greatest));
            numbers.push(number);
        }
        Some(numbers)
    }

    fn insert(&mut self, source: Source, relation: usize, values: &[Value]) {
        let row = self.put(source, values.iter().copied());
        let key_columns = std::mem::take(&mut self.relations[relation].info.key);
        let hash = self.hash(relation, key_columns.iter().map(|&k| values[k]));
        let key = self.put(source, key_columns.iter().map(|&k| values[k]));
        self.relations[relation].info.key = key_columns;
        self.enter(source, Entry { relation: relation as u32, hash, key, net: Net::Insert { row } });
    }

    fn delete(&mut self, source: Source, relation: usize, key: &[Value]) {
        let hash = self.hash(relation, key.iter().copied());
        match self.take(source, relation, hash, key) {
            Some(number) => {
                let entry = &mut self.entries[number];
                self.odd |= entry.relation != relation as u32;
                self.relations[relation].lost.before_delete = true;
                entry.net = match entry.net {
                    Net::Update { key, .. } => Net::Delete { key },
                    _ => Net::Nothing,
                };
            }
            None => {
                let key = self.put(source, key.iter().copied());
                self.entries.push(Entry { relation: relation as u32, hash, key, net: Net::Delete { key } });
            }
        }
    }

    fn update(
        &mut self,
        source: Source,
        relation: usize,
        key: &[Value],
        changed: &[Changed],
        row: Option<&[Value]>,
    ) {
        let columns = &self.relations[relation].info.key;
        let new_of = |column: &usize| changed.iter().find(|c| c.column == *column).map(|c| c.new);
        let moved = columns.iter().any(|k| new_of(k).is_some());
        let new_key: Vec<Value> = match moved {
            true => columns.iter().zip(key).map(|(k, &old)| new_of(k).unwrap_or(old)).collect(),
            false => Vec::new(),
        };
        if !changed.is_sorted_by_key(|c| c.column) {
            self.odd = true;
        }
        let hash = self.hash(relation, key.iter().copied());
        let found = match moved {
            true => self.take(source, relation, hash, key),
            false => self.find(source, relation, hash, key),
        };
        let number = match found {
            Some(number) => {
                self.odd |= self.entries[number].relation != relation as u32;
                self.change_again(source, number, changed, row);
                number
            }
            None => {
                let key = self.put(source, key.iter().copied());
                let cells = self.put_cells(source, changed);
                let row = row.map(|row| self.put(source, row.iter().copied()));
                let net = Net::Update { key, cells, count: changed.len() as u32, row };
                let entry = Entry { relation: relation as u32, hash, key, net };
                if !moved {
                    return self.enter(source, entry);
                }
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        if moved {
            self.entries[number].hash = self.hash(relation, new_key.iter().copied());
            self.entries[number].key = self.put(source, new_key.into_iter());
            self.make_live(source, number);
        }
    }

    /// One more update of a row that was inserted or updated before.
    fn change_again(&mut self, source: Source, number: usize, changed: &[Changed], row: Option<&[Value]>) {
        match self.entries[number].net {
            Net::Insert { row } => {
                let relation = self.entries[number].relation as usize;
                self.relations[relation].lost.before_update = true;
                self.change_row(source, row, changed);
            }
            Net::Update { key, cells, count, row: known } => {
                let row = match (known, row) {
                    (Some(known), _) => {
                        self.change_row(source, known, changed);
                        Some(known)
                    }
                    (None, Some(row)) => Some(self.put(source, row.iter().copied())),
                    (None, None) => None,
                };
                self.entries[number].net = Net::Update { key, cells, count, row };
                let before = cells as usize..(cells + count) as usize;
                let same = self.cells[before.clone()]
                    .iter()
                    .map(|cell| usize::from(cell.column))
                    .eq(changed.iter().map(|c| c.column));
                if same {
                    for (cell, c) in self.cells[before].iter_mut().zip(changed) {
                        cell.new = source.place(c.new);
                    }
                    return;
                }
                let mut merged = self.cells[before].to_vec();
                for c in changed {
                    match merged.iter_mut().find(|cell| usize::from(cell.column) == c.column) {
                        Some(cell) => cell.new = source.place(c.new),
                        None => merged.push(cell(source, c)),
                    }
                }
                merged.sort_unstable_by_key(|cell| cell.column);
                let (cells, count) = (self.cells.len() as u32, merged.len() as u32);
                self.cells.extend(merged);
                self.entries[number].net = Net::Update { key, cells, count, row };
            }
            // Not live.
            Net::Delete { .. } | Net::Nothing => self.odd = true,
        }
    }

    fn change_row(&mut self, source: Source, row: u32, changed: &[Changed]) {
        for c in changed {
            match self.places[row as usize..].get_mut(c.column) {
                Some(place) => *place = source.place(c.new),
                None => self.odd = true,
            }
        }
    }

    fn put<'a>(&mut self, source: Source, values: impl Iterator<Item = Value<'a>>) -> u32 {
        let at = self.places.len() as u32;
        self.places.extend(values.map(|value| source.place(value)));
        at
    }

    fn put_cells(&mut self, source: Source, changed: &[Changed]) -> u32 {
        let at = self.cells.len() as u32;
        self.cells.extend(changed.iter().map(|c| cell(source, c)));
        at
    }

    fn hash<'a>(&self, relation: usize, key: impl Iterator<Item = Value<'a>>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(self.relations[relation].name);
        for value in key {
            let bytes = value.unwrap_or_default();
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
        hasher.finish()
    }

    /// The row that has this key by now.
    fn find(&self, source: Source, relation: usize, hash: u64, key: &[Value]) -> Option<usize> {
        let name = self.relations[relation].name;
        let is_it = |&number: &u32| {
            let entry = &self.entries[number as usize];
            entry.hash == hash
                && self.relations[entry.relation as usize].name == name
                && self.places[entry.key as usize..]
                    .iter()
                    .zip(key)
                    .all(|(place, value)| place.value(source.chunks) == *value)
        };
        self.live.find(hash, is_it).map(|&number| number as usize)
    }

    /// Likewise; afterwards it has that key no longer.
    fn take(&mut self, source: Source, relation: usize, hash: u64, key: &[Value]) -> Option<usize> {
        let number = self.find(source, relation, hash, key)?;
        if let Ok(slot) = self.live.find_entry(hash, |&n| n as usize == number) {
            slot.remove();
        }
        Some(number)
    }

    fn enter(&mut self, source: Source, entry: Entry) {
        self.entries.push(entry);
        self.make_live(source, self.entries.len() - 1);
    }

    /// From now on the entry is found by its key, which no other row may have.
    fn make_live(&mut self, source: Source, number: usize) {
        let NetEffect { entries, relations, places, live, .. } = self;
        let Entry { relation, hash, key, .. } = entries[number];
        let name = relations[relation as usize].name;
        let width = relations[relation as usize].info.key.len();
        let key_at =
            |at: u32| places[at as usize..at as usize + width].iter().map(|p| p.value(source.chunks));
        let same = |&other: &u32| {
            let other = &entries[other as usize];
            other.hash == hash
                && relations[other.relation as usize].name == name
                && relations[other.relation as usize].info.key.len() == width
                && key_at(other.key).eq(key_at(key))
        };
        match live.entry(hash, same, |&n| entries[n as usize].hash) {
            Slot::Occupied(_) => self.odd = true,
            Slot::Vacant(slot) => {
                slot.insert(number as u32);
            }
        }
    }

    /// The rows that were met.
    pub(super) fn rows(&self) -> usize {
        self.entries.len()
    }

    /// The plan of what was added, and nothing is added any more; `None` when only one change after the other will do.
    pub(super) fn take_plan(&mut self) -> Option<Plan> {
        let plan = (!self.odd).then(|| self.plan());
        let NetEffect { places, cells, relations, by_oid, names, entries, live, hasher: _, odd } = self;
        places.clear();
        cells.clear();
        relations.clear();
        by_oid.clear();
        names.clear();
        entries.clear();
        live.clear();
        *odd = false;
        plan
    }

    fn plan(&mut self) -> Plan {
        let mut tables: Vec<TablePlan> = std::mem::take(&mut self.relations)
            .into_iter()
            .map(|met| TablePlan {
                relation: met.info,
                xids: met.xids,
                lost: met.lost,
                deletes: Vec::new(),
                updates: Vec::new(),
                inserts: Vec::new(),
            })
            .collect();
        let mut groups: HashMap<(u32, Vec<u16>), usize> = HashMap::new();
        // Nearly always the group of the update before.
        let mut last: Option<(u32, Vec<u16>, usize)> = None;
        for entry in &self.entries {
            let table = &mut tables[entry.relation as usize];
            match entry.net {
                Net::Nothing => {}
                Net::Insert { row } => table.inserts.push(Row(row)),
                Net::Delete { key } => table.deletes.push(Key(key)),
                Net::Update { key, cells, count, row } => {
                    let columns =
                        self.cells[cells as usize..(cells + count) as usize].iter().map(|cell| cell.column);
                    let group = match &last {
                        Some((relation, known, group))
                            if *relation == entry.relation && known.iter().copied().eq(columns.clone()) =>
                        {
                            *group
                        }
                        _ => {
                            let columns: Vec<u16> = columns.collect();
                            let group =
                                *groups.entry((entry.relation, columns.clone())).or_insert_with(|| {
                                    let columns = columns.iter().map(|&c| usize::from(c)).collect();
                                    table.updates.push(UpdateGroup { columns, rows: Vec::new() });
                                    table.updates.len() - 1
                                });
                            last = Some((entry.relation, columns, group));
                            group
                        }
                    };
                    table.updates[group].rows.push(Update { key: Key(key), cells, row: row.map(Row) });
                }
            }
        }
        // Copied, since what has grown has room for more, and a plan may have to wait.
        Plan { tables, places: self.places.clone(), cells: self.cells.clone() }
    }
}

fn cell(source: Source, changed: &Changed) -> Cell {
    Cell {
        // A table has at most 1600 columns, which the decoder made sure of.
        column: changed.column as u16,
        new: source.place(changed.new),
        old: source.place(changed.old),
    }
}

/// The changes of a payload if all of them are of rows.
fn rows_changed(payload: &[u8]) -> Option<(Decoder<'_>, Vec<Change<'_>>)> {
    // What cannot be decoded is reported when it is applied by itself.
    let mut decoder = Decoder::new(payload).ok()?;
    let mut changes = Vec::new();
    while let Some(change) = decoder.next().ok()? {
        if matches!(change, Change::Truncate { .. } | Change::Statement { .. }) {
            return None;
        }
        changes.push(change);
    }
    Some((decoder, changes))
}
