//! The listings: `ps`, `images`, `volume ls` and their like.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::Template;
use super::table::align;

/// What a listing tells of each of its things.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    /// The key that `--quiet` prints, such as `ID`.
    pub id: &'static str,
    /// All there is to tell, in the order of the table.
    pub columns: &'static [Column],
    /// Keys of columns that this once are in the table though they are [`Column::hidden`], as `ps --size` wants.
    pub also: &'static [&'static str],
}

/// One fact that a listing tells.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name in templates and in JSON.
    pub key: &'static str,
    /// Its heading in tables.
    pub heading: &'static str,
    /// Whether it is in the table that no template was given for.
    pub shown: bool,
}

impl Column {
    /// A column of the table.
    pub const fn shown(key: &'static str, heading: &'static str) -> Self {
        Self { key, heading, shown: true }
    }

    /// A fact for templates and JSON only.
    pub const fn hidden(key: &'static str, heading: &'static str) -> Self {
        Self { key, heading, shown: false }
    }
}

impl Listing {
    /// A listing whose `--quiet` prints the key `id`.
    pub const fn new(id: &'static str, columns: &'static [Column]) -> Self {
        Self { id, columns, also: &[] }
    }

    /// The same listing with these hidden columns in the table.
    pub const fn also(self, keys: &'static [&'static str]) -> Self {
        Self { also: keys, ..self }
    }

    /// Prints the rows as `--format` asks: nothing or `table` for the table, `table <template>` for a table of the
    /// user's own, `json` for an object a line, else a template for each line. `quiet` prints the ids and nothing else.
    ///
    /// Each row is an object with all keys of the listing. It can have more: they can be reached by templates but are
    /// in no JSON. An object under the key `Label` so serves Docker's `{{.Label "name"}}`.
    pub fn render(&self, rows: &[Value], format: Option<&str>, quiet: bool) -> Result<String> {
        match format.unwrap_or("table") {
            _ if quiet => lines(rows, &Template::parse(&format!("{{{{.{}}}}}", self.id))?),
            "json" => rows.iter().map(|row| self.json(row)).collect(),
            "" | "table" => self.table(rows, &self.default_template()),
            format => match format.strip_prefix("table") {
                Some(format) => self.table(rows, &unescape(format)),
                None => lines(rows, &Template::parse(&unescape(format))?),
            },
        }
    }

    fn default_template(&self) -> String {
        let shown = self.columns.iter().filter(|column| column.shown || self.also.contains(&column.key));
        shown.map(|column| format!("{{{{.{}}}}}", column.key)).collect::<Vec<_>>().join("\t")
    }

    fn table(&self, rows: &[Value], format: &str) -> Result<String> {
        let template = Template::parse(format)?;
        let headings: Map<_, _> =
            self.columns.iter().map(|column| (column.key.to_owned(), column.heading.into())).collect();
        let headings = template.render_headings(&Value::Object(headings))?;
        Ok(align(&format!("{headings}\n{}", lines(rows, &template)?)))
    }

    fn json(&self, row: &Value) -> Result<String> {
        // Sorted by key, as Docker's are.
        let facts: BTreeMap<_, _> = self.columns.iter().map(|column| (column.key, row.get(column.key))).collect();
        Ok(serde_json::to_string(&facts).context("a row that is no JSON")? + "\n")
    }
}

fn lines(rows: &[Value], template: &Template) -> Result<String> {
    rows.iter().map(|row| Ok(template.render(row)? + "\n")).collect()
}

/// Listings take `\t` and `\n` for what they mean, for shells make a real tab hard to type.
fn unescape(format: &str) -> String {
    format.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PS: Listing = Listing::new(
        "ID",
        &[
            Column::shown("ID", "CONTAINER ID"),
            Column::shown("Image", "IMAGE"),
            Column::hidden("Labels", "LABELS"),
            Column::shown("Names", "NAMES"),
            Column::hidden("Size", "SIZE"),
        ],
    );

    fn rows() -> Vec<Value> {
        vec![
            json!({"ID": "0123456789ab", "Image": "hello", "Labels": "a.b=c", "Names": "one", "Size": "1kB",
                "Label": {"a.b": "c"}}),
            json!({"ID": "ba9876543210", "Image": "registry.example/web", "Labels": "", "Names": "two", "Size": "0B",
                "Label": {}}),
        ]
    }

    fn render(format: &str) -> String {
        PS.render(&rows(), Some(format), false).unwrap()
    }

    #[test]
    fn prints_the_table() {
        let expected = "CONTAINER ID   IMAGE                  NAMES\n\
                        0123456789ab   hello                  one\n\
                        ba9876543210   registry.example/web   two\n";
        assert_eq!(PS.render(&rows(), None, false).unwrap(), expected);
        assert_eq!(render("table"), expected);
        assert_eq!(PS.render(&[], None, false).unwrap(), "CONTAINER ID   IMAGE     NAMES\n");
        assert_eq!(PS.also(&["Size"]).render(&[], None, false).unwrap(), "CONTAINER ID   IMAGE     NAMES     SIZE\n");
    }

    #[test]
    fn prints_a_table_of_ones_own() {
        assert_eq!(
            render(r#"table {{.Names}}\t{{upper .Image}}\t{{.Label "a.b"}}\t{{.Size}}"#),
            "NAMES     IMAGE                  b         SIZE\n\
             one       HELLO                  c         1kB\n\
             two       REGISTRY.EXAMPLE/WEB             0B\n"
        );

        // This cannot be done with the heading, which is no list, but the rows are fine.
        assert_eq!(render("table {{slice (index (split .Image \"l\") 0) 1}}"), "\ne\negistry.examp\n");
    }

    #[test]
    fn prints_json_ids_and_templates() {
        assert_eq!(
            render("json").lines().next().unwrap(),
            r#"{"ID":"0123456789ab","Image":"hello","Labels":"a.b=c","Names":"one","Size":"1kB"}"#
        );
        assert_eq!(PS.render(&rows(), Some("json"), true).unwrap(), "0123456789ab\nba9876543210\n");
        assert_eq!(render(r"{{.Names}}:\t{{.Size}}"), "one:\t1kB\ntwo:\t0B\n");
        assert_eq!(PS.render(&[], Some("json"), false).unwrap(), "");
    }

    #[test]
    fn names_unknown_keys() {
        for rows in [rows(), vec![]] {
            let error = PS.render(&rows, Some("table {{.Name}}"), false).unwrap_err().to_string();
            assert!(error.contains("\"Name\"") && error.contains("ID, Image, ") && error.contains("Names"), "{error}");
        }
        let error = PS.render(&rows(), Some("{{.Name}}"), false).unwrap_err().to_string();
        assert!(error.contains("\"Name\""), "{error}");
    }
}
