//! What was observed → OpenMetrics.

use super::observe::{Figures, Observed};
use crate::v1::StatsResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use sampan_runtime::container::health::{Health, State};
use sampan_runtime::container::id;
use std::fmt::Error;

/// The text.
pub(super) fn text(observed: Observed) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(observed));
    let mut all = String::new();
    text::encode(&mut all, &registry)?;
    Ok(all)
}

/// Exemplars, of which there are none, have labels of this type.
type NoLabels = [(&'static str, String); 0];

fn counter(mut metric: MetricEncoder<'_>, value: f64) -> Result<(), Error> {
    metric.encode_counter::<NoLabels, f64, f64>(&value, None)
}

/// One family with a value for each container that has one, under these labels besides the container's.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: MetricType,
}

impl Family<'_> {
    fn each<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        running: &[Figures],
        values: impl Fn(&Figures) -> Vec<([(&'static str, String); N], f64)>,
    ) -> Result<(), Error> {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for figures in running {
            for (more, value) in values(figures) {
                let labels: Vec<_> = labels(figures).into_iter().chain(more).collect();
                let mut metric = family.encode_family(&labels)?;
                match self.kind {
                    MetricType::Counter => counter(metric, value)?,
                    _ => metric.encode_gauge(&value)?,
                }
            }
        }
        Ok(())
    }
}

fn labels(figures: &Figures) -> [(&'static str, String); 3] {
    let record = &figures.record;
    [("name", record.name.clone()), ("id", id::short(&record.id).to_owned()), ("image", record.image.clone())]
}

/// A figure of `stats`: its name, what it says, what it is and where it stands.
type Stat = (&'static str, &'static str, MetricType, fn(&StatsResponse) -> f64);

/// What a number of bytes, or of anything that is counted, is to Prometheus, whose numbers are all of this type.
#[allow(clippy::cast_precision_loss, reason = "its numbers have 53 bits")]
fn number(value: u64) -> f64 {
    value as f64
}

const STATS: &[Stat] = &[
    ("sampan_container_cpu_seconds", "Processor time of the container's threads", MetricType::Counter, |s| {
        number(s.cpu_ns) / 1e9
    }),
    ("sampan_container_cpu_held_seconds", "Time for which it was held up by --cpus", MetricType::Counter, |s| {
        number(s.cpu_held_us) / 1e6
    }),
    ("sampan_container_memory_bytes", "Memory on its account", MetricType::Gauge, |s| number(s.memory)),
    ("sampan_container_memory_limit_bytes", "Memory that it may have", MetricType::Gauge, |s| number(s.memory_limit)),
    ("sampan_container_pss_bytes", "Its sandbox's part of the machine's memory", MetricType::Gauge, |s| number(s.pss)),
    ("sampan_container_instances", "Instances at this moment", MetricType::Gauge, |s| number(s.instances)),
    ("sampan_container_network_receive_bytes", "Bytes that have come to its sockets", MetricType::Counter, |s| {
        number(s.received)
    }),
    ("sampan_container_network_transmit_bytes", "Bytes that have left them", MetricType::Counter, |s| number(s.sent)),
    ("sampan_container_block_read_bytes", "Bytes that were read from disks", MetricType::Counter, |s| {
        number(s.block_read)
    }),
    ("sampan_container_block_written_bytes", "Bytes that were written to disks", MetricType::Counter, |s| {
        number(s.block_written)
    }),
];

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let encoder = &mut encoder;
        let mut states =
            encoder.encode_descriptor("sampan_containers", "Containers by state", None, MetricType::Gauge)?;
        for state in ["created", "running", "paused", "restarting", "exited"] {
            let count = self.states.get(state).copied().unwrap_or(0);
            states.encode_family(&[("state", state)])?.encode_gauge(&number(count))?;
        }
        let gauge = |name, help| Family { name, help, kind: MetricType::Gauge };
        let counter = |name, help| Family { name, help, kind: MetricType::Counter };
        let running = &self.running;
        gauge("sampan_container_up", "Whether its sandbox has answered")
            .each(encoder, running, |f| vec![([], f64::from(u8::from(f.stats.is_some())))])?;
        gauge("sampan_container_start_time_seconds", "When it was started, since 1970").each(
            encoder,
            running,
            |f| vec![([], f.running.started.as_duration().as_secs_f64())],
        )?;
        gauge("sampan_container_restarts", "How often its restart policy has started it again in a row").each(
            encoder,
            running,
            |f| vec![([], f64::from(f.running.restarts))],
        )?;
        gauge("sampan_container_healthy", "Whether its health check says so").each(encoder, running, |f| {
            let healthy = |health: &Health| f64::from(u8::from(health.status == State::Healthy));
            f.running.health.iter().map(|health| ([], healthy(health))).collect()
        })?;
        for (name, help, kind, value) in STATS {
            Family { name, help, kind: *kind }
                .each(encoder, running, |f| f.stats.iter().map(|stats| ([], value(stats))).collect())?;
        }
        counter("sampan_container_network_refused", "What it was refused of the network").each(
            encoder,
            running,
            |f| {
                let kinds = f.network.iter().flat_map(|n| {
                    [
                        ("bind", n.binds_refused),
                        ("connection", n.connections_refused),
                        ("look-up", n.look_ups_refused),
                        ("request", n.requests_refused),
                    ]
                });
                kinds.map(|(kind, count)| ([("kind", kind.to_owned())], number(count))).collect()
            },
        )?;
        self.http(encoder)
    }
}

impl Observed {
    fn http(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let running = &self.running;
        let gauge = |name, help| Family { name, help, kind: MetricType::Gauge };
        let counter = |name, help| Family { name, help, kind: MetricType::Counter };
        counter("sampan_http_requests", "Requests that were answered, by status").each(encoder, running, |f| {
            let mut all: Vec<_> = f.http.iter().flat_map(|http| &http.requests).collect();
            all.sort_unstable();
            all.into_iter().map(|(status, count)| ([("status", status.to_string())], number(*count))).collect()
        })?;
        gauge("sampan_http_connections", "Connections that are open")
            .each(encoder, running, |f| f.http.iter().map(|http| ([], number(http.connections))).collect())?;
        gauge("sampan_http_instances_in_use", "Instances that answer requests")
            .each(encoder, running, |f| f.http.iter().map(|http| ([], number(http.instances_in_use))).collect())?;
        counter("sampan_http_instances", "Instances that were made")
            .each(encoder, running, |f| f.http.iter().map(|http| ([], number(http.instances_made))).collect())?;
        counter("sampan_http_instantiation_seconds", "Time that making them took").each(encoder, running, |f| {
            f.http.iter().map(|http| ([], number(http.instantiation_us) / 1e6)).collect()
        })?;
        let help = "From the end of a request's head to the beginning of its answer";
        let name = "sampan_http_request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for figures in running {
            let Some(http) = &figures.http else { continue };
            let buckets: Vec<(f64, u64)> = http
                .latency
                .iter()
                .map(|bucket| match bucket.up_to_us {
                    0 => (f64::INFINITY, bucket.count),
                    us => (number(us) / 1e6, bucket.count),
                })
                .collect();
            let count = http.latency.iter().map(|bucket| bucket.count).sum();
            let labels = labels(figures);
            histogram(family.encode_family(&labels)?, number(http.latency_sum_us) / 1e6, count, &buckets)?;
        }
        Ok(())
    }
}

fn histogram(mut metric: MetricEncoder<'_>, sum: f64, count: u64, buckets: &[(f64, u64)]) -> Result<(), Error> {
    metric.encode_histogram::<NoLabels>(sum, count, buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_containers_has_figures_too() {
        let text = text(Observed { states: [("exited", 3)].into(), running: vec![] }).unwrap();
        assert!(text.contains("sampan_containers{state=\"exited\"} 3") && text.ends_with("# EOF\n"), "{text}");
        assert!(text.contains("# TYPE sampan_http_request_duration_seconds histogram"), "{text}");
    }
}
