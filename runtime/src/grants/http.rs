//! What an HTTP service is given: how long a request may take, how many instances there may be, and how often one is
//! used. The defaults protect the host.

use super::{GrantError, unreadable};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How requests are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// How long a request may go without anything of it moving: the beginning of its answer, or more of a body in
    /// either direction. Zero is for ever.
    pub timeout: Duration,
    /// How many instances may be alive at once, from 1 to [`Http::MOST_INSTANCES`].
    pub max_instances: u32,
    /// How many requests one instance answers in its life; `None` is 1 for WASI 0.2, and 128 for 0.3, whose guests are
    /// made for it.
    pub reuse: Option<u32>,
    /// How many bytes the body of a request may have; `None` is any number, since bodies are streamed.
    pub max_body: Option<u64>,
    /// Whether each request is a line on the container's standard output.
    pub access_log: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), max_instances: 128, reuse: None, max_body: None, access_log: false }
    }
}

mod annotation {
    pub const TIMEOUT: &str = "dev.sampan.http.timeout-ms";
    pub const MAX_INSTANCES: &str = "dev.sampan.http.max-instances";
    pub const REUSE: &str = "dev.sampan.http.reuse";
    pub const MAX_BODY: &str = "dev.sampan.http.max-body";
    pub const ACCESS_LOG: &str = "dev.sampan.http.access-log";
}

impl Http {
    /// More instances than this take more address space than there is on some machines.
    pub const MOST_INSTANCES: u32 = 1000;

    /// As annotations of a bundle: what differs from the defaults.
    pub(super) fn note(&self, mut note: impl FnMut(&str, String)) {
        let default = Self::default();
        if self.timeout != default.timeout {
            note(annotation::TIMEOUT, self.timeout.as_millis().to_string());
        }
        if self.max_instances != default.max_instances {
            note(annotation::MAX_INSTANCES, self.max_instances.to_string());
        }
        note(annotation::REUSE, self.reuse.map_or_else(String::new, |n| n.to_string()));
        note(annotation::MAX_BODY, self.max_body.map_or_else(String::new, |n| n.to_string()));
        note(annotation::ACCESS_LOG, if self.access_log { "true".into() } else { String::new() });
    }

    /// Reads the annotations of a bundle.
    pub(super) fn read<'a>(note: impl Fn(&str) -> Option<&'a str>) -> Result<Self, GrantError> {
        let number = |key| note(key).map(|text| text.parse::<u64>().map_err(unreadable(key))).transpose();
        let small = |key| note(key).map(|text| positive(text).map_err(unreadable(key))).transpose();
        let default = Self::default();
        let max_instances = small(annotation::MAX_INSTANCES)?.unwrap_or(default.max_instances);
        if max_instances > Self::MOST_INSTANCES {
            let reason = format!("{max_instances} is more than {}", Self::MOST_INSTANCES);
            return Err(unreadable(annotation::MAX_INSTANCES)(reason));
        }
        Ok(Self {
            timeout: number(annotation::TIMEOUT)?.map_or(default.timeout, Duration::from_millis),
            max_instances,
            reuse: small(annotation::REUSE)?,
            max_body: number(annotation::MAX_BODY)?,
            access_log: note(annotation::ACCESS_LOG) == Some("true"),
        })
    }
}

fn positive(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("0 is too few".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("{text:?} is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn through(http: &Http) -> Result<Http, GrantError> {
        let mut notes = HashMap::new();
        http.note(|key, value| {
            if !value.is_empty() {
                notes.insert(key.to_owned(), value);
            }
        });
        Http::read(|key| notes.get(key).map(String::as_str))
    }

    #[test]
    fn annotations_say_everything() {
        let http = Http {
            timeout: Duration::ZERO,
            max_instances: 3,
            reuse: Some(100),
            max_body: Some(1 << 40),
            access_log: true,
        };
        assert_eq!(through(&http).unwrap(), http);
        assert_eq!(through(&Http::default()).unwrap(), Http::default());
    }

    #[test]
    fn what_no_flag_could_have_said_is_refused() {
        for (max_instances, reuse) in [(0, None), (1001, None), (1, Some(0))] {
            assert!(through(&Http { max_instances, reuse, ..Http::default() }).is_err());
        }
    }
}
