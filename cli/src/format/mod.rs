//! What `--format` does: Docker's templates, tables and wording, over JSON values.
//!
//! A command gathers its facts as [`serde_json::Value`] objects and hands them to [`Listing::render`] (one object a row)
//! or to [`inspect()`] (one object a thing). Both go through [`Template`] for what the user typed.
//!
//! - [`template`]: the template language, of Go's `text/template` package
//! - [`listing`] and [`table`]: the listings and their aligned columns
//! - [`inspect`](mod@inspect): whole objects as JSON, or through a template
//! - [`humanize`]: durations, ages, sizes, ids, commands and statuses as Docker words them
//! - [`time`]: the points in time and the durations that users type
//! - [`text`] and [`float`]: quoting, widths and numbers as Go prints them

pub mod float;
pub mod humanize;
pub mod inspect;
pub mod listing;
pub mod table;
pub mod template;
pub mod text;
pub mod time;

pub use inspect::inspect;
pub use listing::{Column, Listing};
pub use template::Template;
