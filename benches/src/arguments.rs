//! Arguments of a benchmark: words that choose what runs, and `--results`.
//!
//! A word is the name of a section, a workload or a variant. Words of one kind add up; a kind without a word is
//! not restricted.

use std::process::exit;

pub struct Arguments {
    pub words: Vec<String>,
    /// Whether to bring benches/RESULTS.md up to date.
    pub results: bool,
}

impl Arguments {
    /// Those of the process. Ends it when a word is not among `known`.
    pub fn parse(known: &[&str]) -> Self {
        // cargo bench adds --bench.
        let mut words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
        let before = words.len();
        words.retain(|word| word != "--results");
        let results = words.len() < before;
        if let Some(word) = words.iter().find(|word| !known.contains(&word.as_str())) {
            eprintln!("unknown word \"{word}\"; there are: --results {}", known.join(" "));
            exit(2);
        }
        Self { words, results }
    }

    /// Whether `name`, one of the names of a kind, is to run.
    pub fn wants(&self, name: &str, kind: &[&str]) -> bool {
        self.words.iter().any(|word| word == name) || !self.any(kind)
    }

    /// Whether a word is of this kind.
    pub fn any(&self, kind: &[&str]) -> bool {
        self.words.iter().any(|word| kind.contains(&word.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_restrict_their_own_kind_only() {
        let arguments = Arguments { words: vec!["update".into(), "slony".into()], results: false };
        let workloads = ["insert", "update"];
        assert!(arguments.wants("update", &workloads));
        assert!(!arguments.wants("insert", &workloads));
        assert!(arguments.wants("memory", &["memory", "tpcb"]));
    }
}
