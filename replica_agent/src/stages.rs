//! Where the time of a slave goes: seconds by stage, and how much was applied, summed up since the agent started.
//!
//! In: what each committed batch took. Out: figures for `status`, and a line of the log for each batch. The clock is
//! read once for each part, window and statement of the commit, never for a row.
//! Stages overlap, so their sum may exceed the time that has passed; the one that fills most of it is the bottleneck.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::plan::Window;

/// What it took to read a window and to find its net effect; for slaves that read together the same for each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub fetch: Duration,
    pub plan: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Reading the log of the master.
    pub fetch: f64,
    /// Finding the net effect.
    pub plan: f64,
    /// Putting changes to the slave.
    pub apply: f64,
    /// Moving the position and PREPARE TRANSACTION.
    pub prepare: f64,
    /// COMMIT PREPARED, or COMMIT.
    pub commit: f64,
}

/// Of a batch, or of all batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    pub seconds: Seconds,
    pub batches: u64,
    pub transactions: u64,
    /// Changes as the master logged them.
    pub rows: u64,
}

impl Stages {
    /// A window of the batch: what it took to read and plan it, and at the end how much the batch is.
    pub fn window(&mut self, window: &Window) {
        self.spent(window.spent);
        if let Some(end) = &window.end {
            self.transactions += end.transactions as u64;
            self.rows += end.changes as u64;
        }
    }

    fn spent(&mut self, spent: Spent) {
        self.seconds.fetch += spent.fetch.as_secs_f64();
        self.seconds.plan += spent.plan.as_secs_f64();
    }

    /// As it stands in `pyreplica.slave`.
    pub fn to_json(&self) -> String {
        let Seconds { fetch, plan, apply, prepare, commit } = self.seconds;
        let seconds =
            json!({"fetch": fetch, "plan": plan, "apply": apply, "prepare": prepare, "commit": commit});
        let Stages { batches, transactions, rows, .. } = self;
        json!({"seconds": seconds, "batches": batches, "transactions": transactions, "rows": rows})
            .to_string()
    }

    pub fn add(&mut self, batch: &Stages) {
        let (sum, more) = (&mut self.seconds, &batch.seconds);
        sum.fetch += more.fetch;
        sum.plan += more.plan;
        sum.apply += more.apply;
        sum.prepare += more.prepare;
        sum.commit += more.commit;
        self.batches += batch.batches;
        self.transactions += batch.transactions;
        self.rows += batch.rows;
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seconds { fetch, plan, apply, prepare, commit } = self.seconds;
        write!(
            f,
            "{} rows, {} transactions, {} batches; seconds: fetch {fetch:.3}, plan {plan:.3}, apply {apply:.3}, \
             prepare {prepare:.3}, commit {commit:.3}",
            self.rows, self.transactions, self.batches
        )
    }
}

/// The sum of one slave. Its session adds to it, its reporter reads it.
#[derive(Clone, Debug, Default)]
pub struct Total(Arc<Mutex<Stages>>);

impl Total {
    pub fn add(&self, batch: &Stages) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(batch);
    }

    pub fn get(&self) -> Stages {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sums of all slaves of a process, by name: they outlive the sessions.
#[derive(Clone, Default)]
pub struct Totals(Arc<Mutex<HashMap<String, Total>>>);

impl Totals {
    pub fn of(&self, slave: &str) -> Total {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.entry(slave.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_whoever_asks() {
        let totals = Totals::default();
        let mut batch = Stages { batches: 1, transactions: 2, rows: 30, ..Stages::default() };
        batch.spent(Spent { fetch: Duration::from_millis(500), plan: Duration::from_millis(250) });
        batch.seconds.apply = 1.0;
        totals.of("reports").add(&batch);
        totals.of("reports").add(&batch);
        assert_eq!(
            totals.of("reports").get().to_string(),
            "60 rows, 4 transactions, 2 batches; \
             seconds: fetch 1.000, plan 0.500, apply 2.000, prepare 0.000, commit 0.000"
        );
        assert_eq!(totals.of("archive").get(), Stages::default());
    }
}
