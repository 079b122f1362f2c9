//! `events`.

use crate::Context;
use crate::commands::filter::{Filters, fits_name};
use crate::commands::watch::Watch;
use crate::format::Template;
use crate::format::time::parse_since;
use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use sampan_runtime::events::{self, Event, Kind};
use sampan_runtime::tail::{self, Tail};
use serde_json::{Value, json};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Show what happens, as it happens
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Show what fits: container, event, id, image, label, network, type or volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Begin with what is not older: 10m, 2026-03-01T12:30:00Z, Unix seconds
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End there; with a time that is over, show what there was
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

const KEYS: [&str; 8] = ["container", "event", "id", "image", "label", "network", "type", "volume"];

/// What is to be shown of what happens.
struct Wanted {
    filters: Filters,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Wanted {
    fn fits(&self, event: &Event) -> bool {
        let filters = &self.filters;
        let named = |key, kind, wanted: &str| {
            let name = event.attributes.get(key).map_or("", String::as_str);
            event.kind == kind && (name == wanted || event.id.starts_with(wanted))
        };
        let about = |key: &'static str, kind| filters.any(key, |wanted| named("name", kind, wanted));
        let image = |wanted: &str| match event.kind {
            Kind::Image => named("name", Kind::Image, wanted),
            _ => event.attributes.get("image").is_some_and(|image| fits_name(&format!("^{wanted}"), image)),
        };
        self.since.is_none_or(|since| event.time >= since)
            && filters.any("type", |kind| kind == event.kind.word())
            && filters.any("event", |action| action == event.action)
            && filters.any("id", |id| event.id.starts_with(id))
            && about("container", Kind::Container)
            && about("network", Kind::Network)
            && about("volume", Kind::Volume)
            && filters.any("image", image)
            && filters.labels(&event.attributes)
    }
}

impl EventsArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let now = Timestamp::now();
        let time = |given: &Option<String>| given.as_deref().map(|given| parse_since(given, now)).transpose();
        let (since, until) = (time(&self.since)?, time(&self.until)?);
        let wanted = Wanted { filters: Filters::parse(&self.filter, &KEYS)?, since, until };
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(template) => Some(Template::parse(template)?),
        };
        let show = |event: &Event| match (&template, self.format.as_deref()) {
            (Some(template), _) => Ok(template.render(&object(event))? + "\n"),
            (None, Some("json")) => Ok(format!("{}\n", object(event))),
            (None, _) => Ok(text(event)),
        };
        let store = context.store()?;
        let (log, older) = events::places(&store);
        let dir = events::watched(&store)?;
        // Before the first look, so that nothing happens unseen between the two.
        let mut watch = Watch::new(&dir, &log)?;
        let mut first = Vec::new();
        if since.is_some() {
            first.extend(tail::open(&older)?);
        }
        if let Some(mut file) = tail::open(&log)? {
            // Without a beginning, what there was is not asked for.
            file.seek(if since.is_some() { SeekFrom::Start(0) } else { SeekFrom::End(0) })?;
            first.push(file);
        }
        let mut tail = Tail::new(log, first);
        let mut failed = None;
        loop {
            let over = wanted.until.is_some_and(|until| Timestamp::now() > until);
            let flow = tail.read_on(|line| {
                let Some(event) = events::parse(line) else { return Ok(ControlFlow::Continue(())) };
                if wanted.until.is_some_and(|until| event.time > until) {
                    return Ok(ControlFlow::Break(()));
                }
                if wanted.fits(&event) {
                    match show(&event) {
                        Ok(text) => io::stdout().lock().write_all(text.as_bytes())?,
                        Err(error) => {
                            failed = Some(error);
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                }
                Ok(ControlFlow::Continue(()))
            });
            let flow = flow.and_then(|flow| io::stdout().flush().map(|()| flow));
            let next = match flow {
                Ok(flow) if over || flow.is_break() => Ok(ControlFlow::Break(())),
                Ok(_) => watch.wait().map(ControlFlow::Continue),
                Err(error) => Err(error),
            };
            match (failed.take(), next) {
                (Some(error), _) => return Err(error),
                (None, Ok(ControlFlow::Continue(()))) => {}
                (None, Ok(ControlFlow::Break(()))) => return Ok(ExitCode::SUCCESS),
                // Its reader, such as `head`, has seen enough.
                (None, Err(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                (None, Err(error)) => return Err(error.into()),
            }
        }
    }
}

/// Docker's line: the time, the kind, what happened, to whom, and the rest in brackets.
fn text(event: &Event) -> String {
    let Event { time, kind, action, id, attributes } = event;
    let attributes: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{time:.9} {} {action} {id} ({})\n", kind.word(), attributes.join(", "))
}

/// Docker's object (Engine API, `SystemEvents`).
fn object(event: &Event) -> Value {
    let mut object = json!({
        "Type": event.kind.word(),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
    });
    if let Some(object) = object.as_object_mut().filter(|_| matches!(event.kind, Kind::Container | Kind::Image)) {
        object.insert("status".into(), event.action.clone().into());
        object.insert("id".into(), event.id.clone().into());
        object.extend(event.attributes.get("image").map(|image| ("from".to_owned(), image.clone().into())));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let attributes = [("image", "web:1"), ("name", "shop"), ("tier", "front"), ("exitCode", "3")];
        Event {
            time: Timestamp::new(1_700_000_000, 5).unwrap(),
            kind: Kind::Container,
            action: "die".into(),
            id: "ab12".into(),
            attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    #[test]
    fn an_event_has_dockers_shape() {
        let line =
            "2023-11-14T22:13:20.000000005Z container die ab12 (exitCode=3, image=web:1, name=shop, tier=front)\n";
        assert_eq!(text(&event()), line);
        let object = object(&event());
        assert_eq!((&object["status"], &object["from"]), (&json!("die"), &json!("web:1")));
        assert_eq!(object["timeNano"], json!(1_700_000_000_000_000_005_i64));
        assert_eq!(object["Actor"]["Attributes"]["exitCode"], "3");
    }

    #[test]
    fn filters_choose() {
        let fits = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|&text| text.to_owned()).collect();
            let filters = Filters::parse(&given, &KEYS).unwrap();
            Wanted { filters, since: None, until: None }.fits(&event())
        };
        for yes in ["container=shop", "container=ab", "event=die", "image=web", "label=tier=front", "type=container"] {
            assert!(fits(&[yes]), "{yes}");
        }
        for no in ["container=sho", "event=start", "image=shop", "label=tier=back", "type=image", "volume=shop"] {
            assert!(!fits(&[no]), "{no}");
        }
        assert!(fits(&["event=start", "event=die"]) && !fits(&["event=die", "type=image"]));
    }
}
