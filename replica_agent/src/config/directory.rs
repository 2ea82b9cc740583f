//! The configuration as it was named on the command line: one file, or a directory of which every `*.toml` is one.
//!
//! In: a path. Out: each file's name, with its configuration or what is wrong with it: a broken file stops nobody else.
//! Invariant: no two good ones have the same agent name, by which positions and prepared transactions are told apart.

use std::path::{Path, PathBuf};

use super::{invalid, Config};
use crate::error::{Error, Kind, Result};

/// A file, and what is in it.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub config: Result<Config>,
}

/// Reads all there is. An error only if the directory cannot be read or holds no such file.
pub fn read(path: &Path) -> Result<Vec<Source>> {
    let paths = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
    let mut sources: Vec<Source> =
        paths.into_iter().map(|path| Source { config: Config::load(&path), path }).collect();
    refuse_namesakes(&mut sources);
    Ok(sources)
}

/// In the order of their names; hidden ones are what editors leave behind.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let shown = directory.display();
    let failed = |e| {
        Error::new(Kind::Config, format!("could not read configuration directory \"{shown}\": {e}"))
            .hint("The user that runs the agent needs to be able to read it.")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(invalid(format!("configuration directory \"{shown}\" has no file *.toml"))
            .hint("Each file there is one replication.")),
        false => Ok(files),
    }
}

/// None of them is the right one: which it is only their owner knows.
fn refuse_namesakes(sources: &mut [Source]) {
    let names: Vec<Option<String>> = sources
        .iter()
        .map(|source| source.config.as_ref().ok().map(|config| config.agent_name().to_owned()))
        .collect();
    let paths: Vec<PathBuf> = sources.iter().map(|source| source.path.clone()).collect();
    for (i, source) in sources.iter_mut().enumerate() {
        let Some(name) = &names[i] else { continue };
        let other = (0..names.len()).find(|&other| other != i && names[other].as_ref() == Some(name));
        if let Some(other) = other {
            source.config = Err(invalid(format!(
                "configuration files \"{}\" and \"{}\" have the same agent name \"{name}\"",
                source.path.display(),
                paths[other].display()
            ))
            .detail("The name tells their positions and prepared transactions apart, so neither is used.")
            .hint("Give one of them another name in [agent]; without it the name is that of the master's database."));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_toml_is_one_and_namesakes_are_refused() {
        let directory = std::env::temp_dir().join(format!("replica_agent-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let empty = read(&directory).unwrap_err();
        assert!(empty.to_string().contains("has no file *.toml"), "{empty}");
        let text = |master: &str| {
            format!(
                "[master]\ndsn = \"dbname={master}\"\n[[slave]]\nname = \"s\"\ndsn = \"dbname=b host=x\"\n"
            )
        };
        let broken = text("d") + "[agnet]\n";
        let files = [
            ("b.toml", text("one")),
            ("a.toml", text("two")),
            ("c.toml", text("one")),
            ("d.toml", broken),
            (".hidden.toml", text("e")),
            ("notes.txt", String::new()),
        ];
        for (name, text) in &files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let sources = read(&directory).unwrap();
        let seen: Vec<String> = sources
            .iter()
            .map(|source| match &source.config {
                Ok(config) => config.agent_name().to_owned(),
                Err(e) => e.to_string(),
            })
            .collect();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!((seen.len(), seen[0].as_str()), (4, "two"));
        assert!(
            seen[1].contains("have the same agent name \"one\"") && seen[1].contains("c.toml"),
            "{seen:?}"
        );
        assert!(
            seen[2].contains("have the same agent name \"one\"") && seen[2].contains("b.toml"),
            "{seen:?}"
        );
        assert!(seen[3].contains("unknown key \"agnet\""), "{seen:?}");
    }
}
