//! `serve --metrics`, as Prometheus reads it.

use sampan_tests::{Store, eventually, net};
use std::collections::BTreeMap;

/// The figures of a scrape by their names with labels, as they stand.
fn figures(port: u16) -> BTreeMap<String, f64> {
    let answer = net::get(port, "/metrics").expect(200);
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn figures_of_all_running_containers_are_scraped() {
    let store = Store::fresh(&["web", "probe"]);
    let serve = store.sampan("serve --metrics 127.0.0.1:0").start();
    serve.says("/metrics");
    let said = serve.stdout();
    let port = said.trim().trim_end_matches("/metrics").rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(figures(port)["sampan_containers{state=\"running\"}"], 0.0);

    let (web, probe) =
        (store.detached("-p 8000 -m 64m web"), store.detached("--health-cmd 'probe args' probe forever"));
    for _ in 0..3 {
        net::get(web.port("8000"), "/big?bytes=10000").expect(200);
    }
    net::get(web.port("8000"), "/fetch?url=http://10.1.1.1/").expect(502);
    let of = |name: &str, container: &sampan_tests::Container<'_>, image: &str, more: &str| {
        let id = &container.id()[..12];
        format!("{name}{{name=\"{container}\",id=\"{id}\",image=\"{image}\"{more}}}")
    };
    let of_web = |name: &str, more: &str| of(name, &web, "web", more);
    eventually("all requests are counted", || {
        figures(port)[&of_web("sampan_http_requests_total", ",status=\"200\"")] == 3.0
    });
    let all = figures(port);
    for (name, more, value) in [
        ("sampan_http_requests_total", ",status=\"502\"", 1.0),
        ("sampan_container_network_refused_total", ",kind=\"request\"", 1.0),
        ("sampan_container_memory_limit_bytes", "", 67_108_864.0),
        ("sampan_http_request_duration_seconds_count", "", 4.0),
        ("sampan_container_up", "", 1.0),
    ] {
        let name = of_web(name, more);
        assert_eq!(all.get(&name), Some(&value), "{name} in {all:#?}");
    }
    assert!(all[&of_web("sampan_container_network_transmit_bytes_total", "")] > 30_000.0);
    let bucket = |(name, _): &(&String, &f64)| name.contains("seconds_bucket") && name.contains("le=\"+Inf\"");
    assert_eq!(all.iter().find(bucket).map(|(_, count)| *count), Some(4.0), "{all:#?}");
    assert!(all[&of("sampan_container_pss_bytes", &probe, "probe", "")] > 100_000.0);
    assert_eq!(all["sampan_containers{state=\"running\"}"], 2.0);
    // What is no service has no figures of one; what has ended has none at all.
    assert!(!all.contains_key(&of("sampan_http_connections", &probe, "probe", "")));
    store.sampan(format!("kill {probe}")).ok();
    let all = figures(port);
    assert!(!all.contains_key(&of("sampan_container_up", &probe, "probe", "")));
    assert_eq!(all["sampan_containers{state=\"exited\"}"], 1.0);
    net::get(port, "/").expect(404);
    store.sampan(format!("serve --metrics 127.0.0.1:{port}")).fails(1).stderr_has("cannot serve metrics");
    store.sampan("serve").fails(125).stderr_has("--metrics");
    serve.signal(rustix::process::Signal::TERM);
    assert_eq!(serve.finish().code, 0);
}
