//! The commands that look at replications, over all that are configured: one file, or each of a directory.
//!
//! In: a path. Out: text, and an exit status: the greatest of what each gave. A broken file keeps none of the others from
//! being looked at.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::check_alerts;
use crate::config::directory::{self, Source};
use crate::config::{Config, Slave};
use crate::error::{Error, Kind, Result};
use crate::wake::Stop;
use crate::{check, status, verify};

/// Where text goes.
pub type Out<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

/// The configuration for a command that works on one replication only: of a directory the one that has the slave, or the
/// only one there is. A broken file might be the one that is meant.
pub fn only(path: &Path, command: &str, slave: Option<&str>) -> Result<Config> {
    if !path.is_dir() {
        return Config::load(path);
    }
    let mut fitting = Vec::new();
    for Source { path, config } in directory::read(path)? {
        let config = config?;
        if slave.is_none_or(|name| config.slaves.iter().any(|slave| slave.name == name)) {
            fitting.push((path, config));
        }
    }
    let name_its_file = format!("Name its file: --config {}/NAME.toml", path.display());
    match (fitting.len(), slave) {
        (0, Some(name)) => Err(there_is_none(name, path)),
        (1, _) => Ok(fitting.remove(0).1),
        (_, None) => {
            Err(Error::new(Kind::Usage, format!("\"{command}\" works on one replication at a time"))
                .hint(format!("Name the slave with --slave. {name_its_file}")))
        }
        (_, Some(name)) => {
            let files: Vec<String> =
                fitting.iter().map(|(path, _)| format!("\"{}\"", path.display())).collect();
            Err(Error::new(Kind::Usage, format!("several replications have a slave \"{name}\""))
                .detail(format!("They are {}.", files.join(", ")))
                .hint(name_its_file))
        }
    }
}

fn there_is_none(slave: &str, path: &Path) -> Error {
    Error::new(Kind::Usage, format!("there is no slave \"{slave}\" in \"{}\"", path.display()))
}

pub fn check(path: &Path, mail: bool, out: Out) -> Result<ExitCode> {
    each(path, out, &mut |config, out| {
        let mut report = check::check(config);
        check_alerts::check(config, mail, &mut report);
        out(&report.to_string())?;
        Ok(report.is_ok())
    })
}

pub fn verify(
    path: &Path,
    slave: Option<&str>,
    tables: &[String],
    stop: &Stop,
    out: Out,
) -> Result<ExitCode> {
    let mut found = false;
    let code = each(path, out, &mut |config, out| {
        let slaves: Vec<&Slave> = match slave {
            None => config.slaves.iter().collect(),
            // In a directory most have no slave of that name.
            Some(name) if path.is_dir() => config.slaves.iter().filter(|slave| slave.name == name).collect(),
            Some(name) => vec![config.slave(name)?],
        };
        found |= !slaves.is_empty();
        if slaves.is_empty() {
            return Ok(true);
        }
        verify::verify(config, &slaves, tables, stop, &mut |line| out(&format!("{line}\n")))
    })?;
    match slave {
        Some(name) if !found => Err(there_is_none(name, path)),
        _ => Ok(code),
    }
}

pub fn status(path: &Path, json: bool, out: Out) -> Result<ExitCode> {
    if json {
        return status_json(path, out);
    }
    each(path, out, &mut |config, out| {
        let status = status::read(config);
        out(&status.to_string())?;
        Ok(status.is_readable())
    })
}

/// An object; of a directory a list of them, in which a broken file is an object too.
fn status_json(path: &Path, out: Out) -> Result<ExitCode> {
    if !path.is_dir() {
        let status = status::read(&Config::load(path)?);
        out(&status.to_json())?;
        return Ok(code(u8::from(!status.is_readable())));
    }
    let mut worst = 0;
    let mut list = Vec::new();
    for Source { path, config } in directory::read(path)? {
        let file = path.display().to_string();
        match config {
            Ok(config) => {
                let status = status::read(&config);
                worst = worst.max(u8::from(!status.is_readable()));
                let mut object = serde_json::to_value(&status).unwrap_or_default();
                object["file"] = Value::String(file);
                list.push(object);
            }
            Err(e) => {
                worst = worst.max(e.exit_code());
                list.push(serde_json::json!({ "file": file, "error": format!("{e:#}") }));
            }
        }
    }
    out(&format!("{:#}\n", Value::Array(list)))?;
    Ok(code(worst))
}

/// Looks at each; `look` says whether all is well.
fn each(path: &Path, out: Out, look: &mut dyn FnMut(&Config, Out) -> Result<bool>) -> Result<ExitCode> {
    if !path.is_dir() {
        return Ok(code(u8::from(!look(&Config::load(path)?, out)?)));
    }
    let mut worst = 0;
    for Source { path, config } in directory::read(path)? {
        out(&format!("== {}\n", path.display()))?;
        match config.and_then(|config| look(&config, out)) {
            Ok(well) => worst = worst.max(u8::from(!well)),
            Err(e) if e.kind() == Kind::Stopped => return Err(e),
            Err(e) => {
                out(&format!("{}\n", e.report()))?;
                worst = worst.max(e.exit_code());
            }
        }
    }
    Ok(code(worst))
}

fn code(worst: u8) -> ExitCode {
    ExitCode::from(worst)
}
