//! Tables for people: aligned, borderless, UPPERCASE headers, the same on a terminal and in a
//! pipe, so that `grep` and `awk` see what people see.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, presets};

/// Stands in a cell that has nothing to say, so that columns can be counted.
pub(crate) const NOTHING: &str = "-";

/// Rows under headers. Every row must have as many cells as there are headers.
#[derive(Debug)]
pub(crate) struct Table {
    inner: comfy_table::Table,
    columns: usize,
}

impl Table {
    pub(crate) fn new<const N: usize>(headers: [&str; N]) -> Self {
        let mut inner = comfy_table::Table::new();
        // A table as wide as its content does not change with the width of the terminal.
        inner
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(headers);
        for column in inner.column_iter_mut() {
            column.set_padding((0, 3));
        }
        Self { inner, columns: N }
    }

    /// Aligns these columns, counted from 0, to the right: for numbers that are compared.
    pub(crate) fn right_aligned(mut self, columns: &[usize]) -> Self {
        for &index in columns {
            if let Some(column) = self.inner.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row. An empty cell becomes [`NOTHING`]; control characters, which an SLA or a
    /// worker may have put into a name, and which would move the cursor, become spaces.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| shown(&cell)).collect();
        debug_assert_eq!(cells.len(), self.columns, "one cell a header");
        self.inner.add_row(cells);
    }

    /// # Errors
    /// Those of the writer.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        for line in self.inner.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Aligned `label: value` lines for one object.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn add(&mut self, label: &'static str, value: impl Into<String>) -> &mut Self {
        self.0.push((label, value.into()));
        self
    }

    /// # Errors
    /// Those of the writer.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let width = self.0.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        for (label, value) in &self.0 {
            let pad = width - label.len();
            writeln!(out, "{label}:{:pad$} {}", "", shown(value))?;
        }
        Ok(())
    }
}

fn shown(cell: &str) -> String {
    let cell = cell.trim();
    if cell.is_empty() {
        return NOTHING.to_owned();
    }
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(table: &Table) -> String {
        let mut out = Vec::new();
        table.write_to(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_spaces() {
        let mut table = Table::new(["NAME", "CPUS", "STATUS"]).right_aligned(&[1]);
        table.row(["edge".into(), "4".into(), "active".into()]);
        table.row(["far-away-site".into(), "128".into(), String::new()]);
        assert_eq!(
            rendered(&table),
            "NAME            CPUS   STATUS\n\
             edge               4   active\n\
             far-away-site    128   -\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_headers() {
        assert_eq!(rendered(&Table::new(["ID", "NAME"])), "ID   NAME\n");
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        let mut table = Table::new(["NAME"]);
        table.row(["\u{1b}[2Jpwned\nROW2".into()]);
        assert_eq!(rendered(&table), "NAME\n [2Jpwned ROW2\n");
    }

    #[test]
    fn facts_align_their_values() {
        let mut facts = Facts::default();
        facts.add("id", "17").add("namespace", "");
        let mut out = Vec::new();
        facts.write_to(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id:        17\nnamespace: -\n");
    }
}
