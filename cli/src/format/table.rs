//! Aligns text in columns, as Docker's tables are aligned.

use super::text::width;

/// A column takes at least this many places, the gap after it included.
const NARROWEST: usize = 10;

/// The gap between two columns.
const GAP: usize = 3;

/// Pads the cells of each line so that the columns line up. Cells end with a tab; what follows a line's last tab is no
/// column and is left as it is.
pub fn align(text: &str) -> String {
    let mut widths = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let columns = cells.len().saturating_sub(1);
        widths.resize(widths.len().max(columns), NARROWEST);
        for (widest, cell) in widths.iter_mut().zip(cells.iter().take(columns)) {
            *widest = (*widest).max(width(cell) + GAP);
        }
    }

    let mut aligned = String::new();
    for line in text.lines() {
        let mut cells = line.split('\t').peekable();
        let mut widths = widths.iter();
        while let Some(cell) = cells.next() {
            aligned.push_str(cell);
            if cells.peek().is_some() {
                let room = widths.next().copied().unwrap_or_default();
                aligned.extend(std::iter::repeat_n(' ', room.saturating_sub(width(cell))));
            }
        }
        aligned.push('\n');
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_all_but_the_last_column() {
        assert_eq!(
            align("REPOSITORY\tTAG\tSIZE\nregistry.example/long\tlatest\t1kB\n日本\tv1\t2kB\n"),
            "REPOSITORY              TAG       SIZE\n\
             registry.example/long   latest    1kB\n\
             日本                    v1        2kB\n"
        );
        assert_eq!(align("A\n"), "A\n");
        assert_eq!(align(""), "");
    }
}
