//! Tables for people: aligned, borderless, UPPERCASE headers, the same on a terminal and in a
//! pipe, so that `grep` and `awk` see what people see.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use unicode_width::UnicodeWidthStr;

/// Stands in a cell that has nothing to say, so that columns can be counted.
pub(crate) const NOTHING: &str = "-";

/// Between two columns.
const GAP: &str = "   ";

/// Rows under headers. Every row must have as many cells as there are headers.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Columns,
    rows: Vec<Vec<String>>,
}

/// What stands above the rows.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    headers: Vec<&'static str>,
    /// Columns, counted from 0, that are aligned to the right: numbers that are compared.
    right: Vec<usize>,
}

impl Columns {
    pub(crate) fn new(headers: &[&'static str], right: &[usize]) -> Self {
        Self { headers: headers.to_vec(), right: right.to_vec() }
    }

    /// Writes a table whose rows are made twice, to find how wide they are and to write them,
    /// because there may be more of them than should be held at once.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn write<R, I>(&self, out: &mut impl Write, rows: impl Fn() -> I) -> io::Result<()>
    where
        R: AsRef<[String]>,
        I: Iterator<Item = R>,
    {
        let mut widths: Vec<usize> = self.headers.iter().map(|header| header.width()).collect();
        for row in rows() {
            let cells = row.as_ref();
            debug_assert_eq!(cells.len(), widths.len(), "one cell a header");
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(shown(cell).width());
            }
        }
        let mut line = String::new();
        let headers = self.headers.iter().map(|header| Cow::Borrowed(*header));
        self.write_line(out, &widths, &mut line, headers)?;
        for row in rows() {
            self.write_line(out, &widths, &mut line, row.as_ref().iter().map(|cell| shown(cell)))?;
        }
        Ok(())
    }

    fn write_line<'a>(
        &self,
        out: &mut impl Write,
        widths: &[usize],
        line: &mut String,
        cells: impl Iterator<Item = Cow<'a, str>>,
    ) -> io::Result<()> {
        line.clear();
        for (index, (width, cell)) in widths.iter().zip(cells).enumerate() {
            if index > 0 {
                line.push_str(GAP);
            }
            let pad = width.saturating_sub(cell.width());
            let (before, after) = if self.right.contains(&index) { (pad, 0) } else { (0, pad) };
            line.extend(std::iter::repeat_n(' ', before));
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', after));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

impl Table {
    pub(crate) fn new<const N: usize>(headers: [&'static str; N]) -> Self {
        Self { columns: Columns::new(&headers, &[]), rows: Vec::new() }
    }

    /// Aligns these columns, counted from 0, to the right: for numbers that are compared.
    pub(crate) fn right_aligned(mut self, columns: &[usize]) -> Self {
        self.columns.right = columns.to_vec();
        self
    }

    /// Adds a row. An empty cell becomes [`NOTHING`]; control characters, which an SLA or a
    /// worker may have put into a name, and which would move the cursor, become spaces.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// # Errors
    /// Those of the writer.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        self.columns.write(out, || self.rows.iter())
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

/// What stands in the table for a cell.
fn shown(cell: &str) -> Cow<'_, str> {
    let cell = cell.trim();
    if cell.is_empty() {
        return NOTHING.into();
    }
    if cell.chars().any(char::is_control) {
        return cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    cell.into()
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
    fn wide_characters_take_the_room_that_they_have_on_a_terminal() {
        let mut table = Table::new(["NAME", "N"]);
        table.row(["\u{6771}\u{4eac}\u{90fd}".into(), "1".into()]);
        table.row(["abcdef".into(), "2".into()]);
        assert_eq!(rendered(&table), "NAME     N\n\u{6771}\u{4eac}\u{90fd}   1\nabcdef   2\n");
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
