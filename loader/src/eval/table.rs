//! The table that both measurements print: a name, then columns of numbers.

use std::fmt::Display;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use crate::messages;

pub struct Numbers<const COLUMNS: usize>(Table);

impl<const COLUMNS: usize> Numbers<COLUMNS> {
    pub fn new(header: [&str; COLUMNS]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header);
        Self(table)
    }

    pub fn add(&mut self, row: [String; COLUMNS]) {
        self.0.add_row(row.map(messages::shown));
    }

    /// Prints it under a line that says what was measured; numbers stand at the right.
    pub fn print(mut self, heading: impl Display) -> Result<()> {
        for column in 1..COLUMNS {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        messages::print(format_args!("{heading}\n{}", self.0.trim_fmt()))
    }
}
