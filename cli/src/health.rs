//! The flags of a health check.

use crate::format::time::parse_length;
use anyhow::{Result, bail};
use clap::Args;
use sampan_runtime::container::health::{Check, OnFailure};
use std::time::Duration;

// How a container's health is checked.
#[derive(Debug, Args)]
pub struct HealthFlags {
    /// Check its health by this shell command in the container
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Check its health by a GET: PORT[/PATH]; a status from 200 to 399 is healthy
    #[arg(long, value_name = "PORT[/PATH]")]
    health_http: Option<String>,
    /// Check its health by connecting to this port
    #[arg(long, value_name = "PORT")]
    health_tcp: Option<u16>,
    /// The time between two checks; 30s without it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_interval: Option<Duration>,
    /// How long a check may take; 30s without it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_timeout: Option<Duration>,
    /// How long failures do not count after the start
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_start_period: Option<Duration>,
    /// The time between two checks in the start period; 5s without it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    health_start_interval: Option<Duration>,
    /// How many failures in a row make it unhealthy; 3 without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    health_retries: Option<u32>,
    /// What to do when it is unhealthy: none, restart, kill or stop
    #[arg(long, value_name = "ACTION", default_value_t)]
    pub health_on_failure: OnFailure,
    /// Do not check its health, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
}

impl HealthFlags {
    /// What the flags say; empty fields leave the image's word.
    pub fn check(&self) -> Result<Check> {
        let mut tests = Vec::new();
        tests.extend(self.health_cmd.as_ref().map(|line| vec!["CMD-SHELL".to_owned(), line.clone()]));
        tests.extend(self.health_tcp.map(|port| vec!["TCP".to_owned(), port.to_string()]));
        if let Some(target) = &self.health_http {
            let port = target.split('/').next().unwrap_or_default();
            if port.parse::<u16>().is_err() || target.contains(|c: char| c.is_whitespace() || c.is_control()) {
                bail!("--health-http {target}: write a port and a path, such as 8000/healthz");
            }
            tests.push(vec!["HTTP".to_owned(), target.clone()]);
        }
        if self.no_healthcheck {
            tests.push(vec!["NONE".to_owned()]);
        }
        if tests.len() > 1 {
            bail!(
                "--health-cmd, --health-http, --health-tcp and --no-healthcheck exclude each other: give one of them"
            );
        }
        let time = |time: Option<Duration>| time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Ok(Check {
            test: tests.pop().unwrap_or_default(),
            interval: time(self.health_interval),
            timeout: time(self.health_timeout),
            start_period: time(self.health_start_period),
            start_interval: time(self.health_start_interval),
            retries: self.health_retries.unwrap_or(0),
        })
    }
}

/// A Go duration of at least a millisecond, as Docker wants it.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_length(text)?;
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        return Err(format!("{text:?} is shorter than a millisecond"));
    }
    Ok(duration)
}
