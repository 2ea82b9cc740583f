//! A table of figures: aligned for a terminal, or as Markdown.

pub struct Table {
    pub title: String,
    /// The first column holds names, the others figures.
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: &str, header: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            header: header.iter().map(|h| h.to_string()).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |i: usize| lines().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for line in lines() {
            for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
                text += &if i == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("{}:\n\n{}|", self.title, line(&self.header));
        for i in 0..self.header.len() {
            text += if i == 0 { "---|" } else { "---:|" };
        }
        text.push('\n');
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("ratio", &["variant", "insert"]);
        table.row(vec!["none".into(), "1.00".into()]);
        table
    }

    #[test]
    fn names_stand_left_and_figures_right() {
        assert_eq!(table().text(), "ratio\n  variant  insert\n  none       1.00\n");
    }

    #[test]
    fn markdown() {
        assert_eq!(table().markdown(), "ratio:\n\n| variant | insert |\n|---|---:|\n| none | 1.00 |\n");
    }
}
