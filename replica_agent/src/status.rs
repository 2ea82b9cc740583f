//! What is known of every slave: by the master, and by the slave itself. For people as a table, for scripts as JSON.
//!
//! In: the configuration. Out: a `Status`. A server that is down is part of the answer, not an error.

use std::fmt;

use postgres::Client;
use serde::Serialize;

use crate::config::{Config, Slave};
use crate::error::{Error, Result};
use crate::session::{connect_master, connect_slave};
use crate::stages::Stages;

#[derive(Debug, Serialize)]
pub struct Status {
    pub agent: String,
    /// Why the master could not be asked.
    pub master_error: Option<String>,
    pub slaves: Vec<SlaveStatus>,
}

#[derive(Debug, Serialize)]
pub struct SlaveStatus {
    pub name: String,
    /// None when the master does not know the slave, or cannot be asked.
    pub on_master: Option<OnMaster>,
    pub on_slave: Option<OnSlave>,
    /// Why the slave could not be asked.
    pub slave_error: Option<String>,
}

/// The row of `pyreplica.slave_status`.
#[derive(Debug, Serialize)]
pub struct OnMaster {
    pub state: String,
    pub state_since: String,
    pub applied_position: Option<i64>,
    pub applied_at: Option<String>,
    pub updated_at: String,
    pub changes_behind: i64,
    pub bytes_behind: i64,
    pub seconds_behind: f64,
    pub last_error: Option<String>,
    pub sqlstate: Option<String>,
    pub hint: Option<String>,
    pub error_since: Option<String>,
    /// Where the time went; None before the first batch.
    pub stages: Option<Stages>,
}

/// What the agent has written there: the truth about the position.
#[derive(Debug, Default, Serialize)]
pub struct OnSlave {
    pub position: Option<i64>,
    pub snapshot: Option<String>,
    pub batch: Option<i64>,
    pub applied_at: Option<String>,
    pub copied_tables: i64,
    pub conflicts: i64,
    pub last_conflict_at: Option<String>,
    /// Transactions of ours that are prepared and not settled.
    pub prepared: i64,
}

/// Asks everybody.
pub fn read(config: &Config) -> Status {
    let master =
        connect_master(&config.master.dsn, "status").and_then(|mut master| on_master(&mut master, config));
    let (mut known, master_error) = match master {
        Ok(known) => (known, None),
        Err(e) => (Vec::new(), Some(format!("{e:#}"))),
    };
    let slaves = config.slaves.iter().map(|slave| {
        let row = known.iter().position(|(name, _)| *name == slave.name);
        let asked = connect_slave(slave).and_then(|mut client| on_slave(&mut client, config, slave));
        let (on_slave, slave_error) = match asked {
            Ok(found) => (Some(found), None),
            Err(e) => (None, Some(format!("{e:#}"))),
        };
        SlaveStatus {
            name: slave.name.clone(),
            on_master: row.map(|i| known.swap_remove(i).1),
            on_slave,
            slave_error,
        }
    });
    Status { agent: config.agent_name().to_owned(), slaves: slaves.collect(), master_error }
}

fn on_master(master: &mut Client, config: &Config) -> Result<Vec<(String, OnMaster)>> {
    let rows = master
        .query(include_str!("sql/status_on_master.sql"), &[&config.agent_name()])
        .map_err(|e| Error::from_pg("could not read pyreplica.slave_status on the master", e))?;
    Ok(rows
        .iter()
        .map(|row| {
            let known = OnMaster {
                state: row.get(1),
                state_since: row.get(2),
                applied_position: row.get(3),
                applied_at: row.get(4),
                updated_at: row.get(5),
                changes_behind: row.get(6),
                bytes_behind: row.get(7),
                seconds_behind: row.get(8),
                last_error: row.get(9),
                sqlstate: row.get(10),
                hint: row.get(11),
                error_since: row.get(12),
                stages: row.get::<_, Option<&str>>(13).and_then(|text| serde_json::from_str(text).ok()),
            };
            (row.get(0), known)
        })
        .collect())
}

fn on_slave(client: &mut Client, config: &Config, slave: &Slave) -> Result<OnSlave> {
    let context = |e| Error::from_pg(format!("could not read the position of slave \"{}\"", slave.name), e);
    let there: bool = client
        .query_one("select to_regnamespace('pyreplica_agent') is not null", &[])
        .map_err(context)?
        .get(0);
    if !there {
        return Ok(OnSlave::default());
    }
    let prefix = format!("pyreplica:{}:{}:", config.agent_name(), slave.name);
    let row = client
        .query_one(include_str!("sql/status_on_slave.sql"), &[&config.agent_name(), &slave.name, &prefix])
        .map_err(context)?;
    Ok(OnSlave {
        position: row.get(0),
        snapshot: row.get(1),
        batch: row.get(2),
        applied_at: row.get(3),
        copied_tables: row.get(4),
        conflicts: row.get(5),
        last_conflict_at: row.get(6),
        prepared: row.get(7),
    })
}

impl Status {
    /// Whether the one could be asked who knows the most.
    pub fn is_readable(&self) -> bool {
        self.master_error.is_none()
    }

    pub fn to_json(&self) -> String {
        // Text and numbers only: nothing in it can fail to become JSON.
        let mut json =
            serde_json::to_string_pretty(self).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
        json.push('\n');
        json
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "agent {}", self.agent)?;
        if let Some(e) = &self.master_error {
            writeln!(f, "master: {e}")?;
        }
        let mut lines =
            vec![["slave", "state", "since", "behind", "delay", "position", "conflicts"].map(String::from)];
        lines.extend(self.slaves.iter().map(SlaveStatus::line));
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0))
            .collect();
        for line in &lines {
            let cells: Vec<_> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        for slave in &self.slaves {
            slave.remarks(f)?;
        }
        Ok(())
    }
}

impl SlaveStatus {
    fn line(&self) -> [String; 7] {
        let dash = || "-".to_owned();
        let number = |n: Option<i64>| n.map_or_else(dash, |n| n.to_string());
        let position = self.on_slave.as_ref().and_then(|there| there.position);
        let conflicts = self.on_slave.as_ref().map(|there| there.conflicts);
        let [state, since, behind, delay, known] = match &self.on_master {
            None => [dash(), dash(), dash(), dash(), dash()],
            Some(row) => [
                row.state.clone(),
                row.state_since.clone(),
                format!("{} changes, {}", row.changes_behind, bytes(row.bytes_behind)),
                format!("{:.1} s", row.seconds_behind),
                number(row.applied_position),
            ],
        };
        let position = if position.is_some() { number(position) } else { known };
        [self.name.clone(), state, since, behind, delay, position, number(conflicts)]
    }

    fn remarks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stages) = self.on_master.as_ref().and_then(|row| row.stages.as_ref()) {
            writeln!(f, "{}: {stages}", self.name)?;
        }
        if let Some(e) = &self.slave_error {
            writeln!(f, "{}: {e}", self.name)?;
        }
        if let Some((row, e)) =
            self.on_master.as_ref().and_then(|row| row.last_error.as_ref().map(|e| (row, e)))
        {
            let since = row.error_since.as_deref().unwrap_or("?");
            let state = row.sqlstate.as_ref().map(|state| format!(" (SQLSTATE {state})")).unwrap_or_default();
            writeln!(f, "{}: since {since}: {e}{state}", self.name)?;
            if let Some(hint) = &row.hint {
                writeln!(f, "{}: HINT:  {hint}", self.name)?;
            }
        }
        match &self.on_slave {
            Some(there) if there.position.is_none() => writeln!(f, "{}: not copied yet", self.name)?,
            Some(there) if there.prepared > 0 => {
                writeln!(
                    f,
                    "{}: {} of our transactions prepared and not settled",
                    self.name, there.prepared
                )?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn bytes(n: i64) -> String {
    match n {
        ..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} kB", n / 1000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Status {
        let row = OnMaster {
            state: "error".into(),
            state_since: "2025-01-01 10:00:00+00".into(),
            applied_position: Some(7),
            applied_at: None,
            updated_at: "2025-01-01 10:00:01+00".into(),
            changes_behind: 3,
            bytes_behind: 12_000,
            seconds_behind: 1.25,
            last_error: Some("could not apply".into()),
            sqlstate: Some("23505".into()),
            hint: Some("Remove the row.".into()),
            error_since: Some("2025-01-01 10:00:00+00".into()),
            stages: Some(Stages { batches: 2, transactions: 5, rows: 70, ..Stages::default() }),
        };
        let down = |name: &str| SlaveStatus {
            name: name.into(),
            on_master: None,
            on_slave: None,
            slave_error: Some("could not connect".into()),
        };
        let stopped = SlaveStatus { on_master: Some(row), ..down("reports") };
        Status { agent: "shop".into(), master_error: None, slaves: vec![stopped, down("archive")] }
    }

    #[test]
    fn for_people() {
        assert_eq!(
            example().to_string(),
            "agent shop\n\
             slave    state  since                   behind            delay  position  conflicts\n\
             reports  error  2025-01-01 10:00:00+00  3 changes, 12 kB  1.2 s  7         -\n\
             archive  -      -                       -                 -      -         -\n\
             reports: 70 rows, 5 transactions, 2 batches; seconds: fetch 0.000, plan 0.000, apply 0.000, prepare 0.000, commit 0.000\n\
             reports: could not connect\n\
             reports: since 2025-01-01 10:00:00+00: could not apply (SQLSTATE 23505)\n\
             reports: HINT:  Remove the row.\n\
             archive: could not connect\n"
        );
    }

    #[test]
    fn for_scripts() {
        let json: serde_json::Value = serde_json::from_str(&example().to_json()).unwrap();
        assert_eq!(json["slaves"][0]["on_master"]["changes_behind"], 3);
        assert_eq!(json["slaves"][0]["on_master"]["stages"]["rows"], 70);
        assert_eq!(json["slaves"][0]["on_master"]["stages"]["seconds"]["apply"], 0.0);
        assert_eq!(json["slaves"][1]["slave_error"], "could not connect");
        assert!(json["master_error"].is_null());
    }
}
