//! The examples of the documentation: tests run them as they are printed.
//!
//! An example is a code block in `docs/` after a line `<!-- example: NAME -->`.

use std::path::PathBuf;

/// The code block of that name in a file of `docs/`.
pub fn example(file: &str, name: &str) -> String {
    let examples = blocks(file).into_iter().filter(|block| block.name.as_deref() == Some(name));
    let mut texts: Vec<String> = examples.map(|block| block.text).collect();
    assert_eq!(texts.len(), 1, "{file} has {} examples named {name:?}", texts.len());
    texts.remove(0)
}

/// A code block of a file.
#[derive(Debug)]
pub struct Block {
    pub name: Option<String>,
    /// As it is said behind the fence: sql, toml, ...
    pub language: String,
    pub text: String,
}

/// All code blocks of a file of `docs/`.
pub fn blocks(file: &str) -> Vec<Block> {
    let path = project().join("docs").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut blocks = Vec::new();
    let mut name = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let code = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n"));
            blocks.push(Block { name: name.take(), language: language.to_owned(), text: code.collect() });
        } else if let Some(marked) = line.strip_prefix("<!-- example: ") {
            name = Some(marked.trim_end_matches("-->").trim().to_owned());
        }
    }
    blocks
}

/// The top of the repository.
pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
