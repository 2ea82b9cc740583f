//! What backends are seen waiting for, by looks at pg_stat_activity and pg_locks.

use std::collections::BTreeMap;

use pyreplica_benches::process::meanwhile;
use pyreplica_tests::db::Db;
use serde_json::{json, Value};

/// A backend that waits for nothing.
const RUNNING: &str = "running";

/// The wait event of each active backend, and which lock of ours, if any, it waits for: on a relation of our schema,
/// or on the database, which NOTIFY takes.
const LOOK: &str = "
    select coalesce(wait_event_type || ' ' || wait_event, 'running'),
           coalesce((select coalesce(locktype || ' of ' || relname, 'NOTIFY')
                       from pg_locks l left join pg_class c on c.oid = relation
                      where l.pid = a.pid and not granted
                        and (relnamespace = to_regnamespace('pyreplica') or classid = 'pg_database'::regclass)), '')
      from pg_stat_activity a
     where datname = current_database() and state = 'active' and pid <> pg_backend_pid()";

/// How often each wait was seen, by its name.
#[derive(Clone, Default)]
pub struct Waits {
    all: BTreeMap<String, u64>,
    ours: BTreeMap<String, u64>,
}

impl Waits {
    /// Looks at the other sessions of a database while `f` runs.
    pub fn watch(&mut self, db: &Db, f: impl FnOnce()) {
        let mut sampler = db.session();
        let look = || {
            for row in sampler.rows(LOOK) {
                let (event, lock) = row.split_once('|').unwrap_or((&row, ""));
                *self.all.entry(event.to_owned()).or_default() += 1;
                if !lock.is_empty() {
                    *self.ours.entry(lock.to_owned()).or_default() += 1;
                }
            }
        };
        meanwhile(look, f);
    }

    /// Those that were seen in at least `least` per cent of the looks at a session, most frequent first.
    pub fn all(&self, least: f64) -> String {
        self.shares(&self.all, least)
    }

    /// Of these those for locks of ours.
    pub fn ours(&self, least: f64) -> String {
        self.shares(&self.ours, least)
    }

    pub fn json(&self) -> Value {
        json!({"all": self.all, "ours": self.ours})
    }

    fn shares(&self, waits: &BTreeMap<String, u64>, least: f64) -> String {
        let total: u64 = self.all.values().sum();
        let percent = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
        let mut sorted: Vec<(&str, f64)> =
            waits.iter().map(|(event, count)| (&event[..], percent(*count))).collect();
        sorted.retain(|(event, share)| *event != RUNNING && *share >= least);
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let texts: Vec<String> = sorted.iter().map(|(event, share)| format!("{event} {share:.1}")).collect();
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(", ")
        }
    }
}
