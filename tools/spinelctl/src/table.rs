//! Tables and text on standard output. It refuses to know what they show.

use crate::failure::Failure;
use comfy_table::{Cell, CellAlignment, Table as Grid, presets};
use serde_json::Value;
use std::io::Write as _;

/// Columns with a heading each, aligned, without lines between: for eyes and for awk.
#[derive(Debug)]
pub(crate) struct Table {
    grid: Grid,
    alignments: Vec<CellAlignment>,
}

impl Table {
    /// A table with these headings. One that starts with `>` is of numbers: its column is aligned
    /// to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        grid.force_no_tty();
        let alignments = headings.iter().map(|heading| match heading.strip_prefix('>') {
            Some(_) => CellAlignment::Right,
            None => CellAlignment::Left,
        });
        let mut table = Self { alignments: alignments.collect(), grid };
        let headings: Vec<&str> = headings.iter().map(|heading| heading.trim_start_matches('>')).collect();
        let cells = table.cells(&headings);
        table.grid.set_header(cells);
        table
    }

    /// Adds a row, as wide as the headings.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        let cells = self.cells(cells);
        self.grid.add_row(cells);
    }

    fn cells<S: AsRef<str>>(&self, cells: &[S]) -> Vec<Cell> {
        let cell = |(text, alignment): (&S, &CellAlignment)| Cell::new(printable(text.as_ref())).set_alignment(*alignment);
        cells.iter().zip(&self.alignments).map(cell).collect()
    }

    /// Its lines, without blanks at their ends.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        // The style puts a blank before each column, the first one too.
        self.grid.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        let lines: Vec<String> = self.lines().collect();
        print(&lines.join("\n"))
    }
}

/// The text without control characters, which could move the cursor of whoever lists disks.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Writes `text` and a newline to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.write_all(b"\n"))
        .and_then(|()| output.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes JSON over several lines.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}"))
}

#[cfg(test)]
mod tests {
    use super::{Table, printable};

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let mut table = Table::new(&["NAME", ">SIZE", "FILE"]);
        table.row(&["a", "64 MiB", "/x"]);
        table.row(&["longer", "1 B", ""]);
        let lines: Vec<String> = table.lines().collect();
        assert_eq!(lines, ["NAME      SIZE  FILE", "a       64 MiB  /x", "longer     1 B"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb\u{9b}"), "a?[2J?b?");
    }
}
