//! Results of a benchmark: on the terminal, in a JSON file below the target directory, and in benches/RESULTS.md.
//!
//! RESULTS.md has one heading for each section of each benchmark; a run replaces those that it ran.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pyreplica_tests::cluster::run;
use serde_json::{json, Map, Value};

use crate::table::Table;

/// What one section of a benchmark found.
pub struct Section {
    pub name: &'static str,
    /// Sentences that say what was run and under which settings.
    pub about: Vec<String>,
    pub tables: Vec<Table>,
    /// All figures.
    pub json: Value,
}

pub struct Report {
    benchmark: &'static str,
    /// Of the machine when the benchmark began: what others do to it.
    load: String,
    /// Whether to bring RESULTS.md up to date.
    results: bool,
    sections: Map<String, Value>,
}

impl Report {
    pub fn new(benchmark: &'static str, results: bool) -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default().to_owned();
        Self { benchmark, load, results, sections: Map::new() }
    }

    /// Prints a section, writes it to the JSON file with those before it, and to RESULTS.md if wanted.
    pub fn add(&mut self, section: Section) {
        println!("\n== {}/{}", self.benchmark, section.name);
        section.about.iter().for_each(|line| println!("{line}"));
        section.tables.iter().for_each(|table| print!("\n{}", table.text()));

        let figures = json!({"about": section.about, "figures": section.json});
        self.sections.insert(section.name.to_owned(), figures);
        let all = json!({
            "benchmark": self.benchmark, "date": date(), "commit": commit(), "server": server(),
            "machine": machine(), "load_average_before": self.load, "sections": self.sections,
        });
        let path = target_dir().join(format!("{}.json", self.benchmark));
        write(&path, &format!("{all:#}\n"));
        println!("\nall figures: {}", path.display());
        if self.results {
            let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md"));
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let heading = format!("{}/{}", self.benchmark, section.name);
            write(&path, &replace_section(&text, &heading, &self.markdown(&section)));
            println!("brought up to date: {}", path.display());
        }
    }

    fn markdown(&self, section: &Section) -> String {
        let mut text = format!("{}, commit {}, {}, {}.\n", date(), commit(), server(), machine());
        text += &format!("Load average before: {}.\n", self.load);
        section.about.iter().for_each(|line| text += &format!("{line}\n"));
        section.tables.iter().for_each(|table| text += &format!("\n{}", table.markdown()));
        text
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// `text` with the section under `## heading` replaced, or added at the end.
fn replace_section(text: &str, heading: &str, body: &str) -> String {
    let mut out = String::new();
    let mut found = false;
    for part in split_before(text, "## ") {
        let ours = part.strip_prefix("## ").and_then(|p| p.lines().next()) == Some(heading);
        if ours {
            found = true;
            out += &format!("## {heading}\n\n{}\n\n", body.trim_end());
        } else {
            out += part;
        }
    }
    if !found {
        out = format!("{}\n\n## {heading}\n\n{body}\n", out.trim_end());
    }
    format!("{}\n", out.trim_end())
}

/// Parts of a text, each but the first beginning with a line that starts with `mark`.
fn split_before<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let mut starts = vec![0];
    starts.extend(text.match_indices(&format!("\n{mark}")).map(|(i, _)| i + 1));
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// The PostgreSQL that runs.
fn server() -> String {
    let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let version = run(Command::new(pg_config).arg("--version"));
    version.split(" (").next().unwrap_or(&version).trim().to_owned()
}

fn date() -> String {
    run(Command::new("date").arg("+%F")).trim().to_owned()
}

/// The commit measured; `-dirty` when files differ from it, RESULTS.md itself apart.
fn commit() -> String {
    let git =
        |arguments: &[&str]| run(Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments));
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let dirty = changed.lines().any(|line| !line.ends_with("benches/RESULTS.md"));
    format!("{}{}", git(&["rev-parse", "--short", "HEAD"]).trim(), if dirty { "-dirty" } else { "" })
}

fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, |n| n.get());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes =
        memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    format!("{processors} processors, {:.0} GB", kilobytes.unwrap_or(0.0_f64) / 1048576.0)
}

/// Benchmarks run as target/release/deps/<name>-<hash>.
fn target_dir() -> PathBuf {
    let own = std::env::current_exe().expect("path of this program");
    own.ancestors().nth(3).expect("a program below the target directory").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(replace_section(text, "a/b", "new"), expected);
    }

    #[test]
    fn sections_of_the_results_are_replaced() {
        check(
            "# Results\n\n## a/b\n\nold\n\n## a/c\n\nkept\n",
            "# Results\n\n## a/b\n\nnew\n\n## a/c\n\nkept\n",
        );
    }

    #[test]
    fn a_new_section_comes_last() {
        check("# Results\n\n## a\n\nkept\n", "# Results\n\n## a\n\nkept\n\n## a/b\n\nnew\n");
    }
}
