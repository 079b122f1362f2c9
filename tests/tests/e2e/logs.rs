//! Logs.

use sampan_tests::{Store, eventually};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[test]
fn a_log_keeps_both_streams_apart_and_in_order() {
    let store = Store::shared(&["probe"]);
    let container = store.container("order");
    store.sampan(format!("run --name {container} probe both 10")).ok();
    container.logs().stdout_is("1\n3\n5\n7\n9\n").stderr_is("2\n4\n6\n8\n10\n");
    let both = store.shell(&format!("sampan logs {container} 2>&1")).ok();
    both.stdout_is("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
}

#[test]
fn every_line_of_many_is_in_the_log() {
    let store = Store::shared(&["probe"]);
    let container = store.container("many");
    let printed = store.sampan(format!("run --name {container} probe lines 50000")).ok();
    let logged = container.logs();
    assert!(printed.lines().len() == 50_000 && logged.stdout == printed.stdout, "{} lines", logged.lines().len());
}

#[test]
fn what_has_no_newline_is_in_the_log_as_it_is() {
    let store = Store::shared(&["probe"]);
    let container = store.container("newline");
    let long = "x".repeat(100_000);
    let text = format!("{long}\nend");
    store.sampan(format!("run --name {container} -i probe stdin")).stdin(&text).ok().stdout_is(&text);
    container.logs().stdout_is(&text);
}

#[test]
fn the_last_lines_are_shown_with_tail() {
    let store = Store::shared(&["probe"]);
    let container = store.container("tail");
    store.sampan(format!("run --name {container} probe lines 1000")).ok();
    let tail = |n: &str| store.sampan(format!("logs --tail {n} {container}")).ok();
    tail("2").stdout_is("line 999\nline 1000\n");
    tail("0").stdout_is("");
    assert_eq!(tail("all").lines().len(), 1000);
    assert_eq!(tail("5000").lines().len(), 1000);
    store.sampan(format!("logs -n 1 {container}")).ok().stdout_is("line 1000\n");
    store.sampan(format!("logs --tail some {container}")).fails(1).stderr_has("some");
}

#[test]
fn each_line_has_its_time_with_t() {
    let store = Store::shared(&["probe"]);
    let container = store.container("times");
    store.sampan(format!("run --name {container} probe lines 3")).ok();
    let output = store.sampan(format!("logs -t {container}")).ok();
    for (n, line) in output.lines().iter().enumerate() {
        let (time, text) = line.split_once(' ').unwrap();
        assert_eq!(text, format!("line {}", n + 1));
        // 2026-03-01T12:30:00.123456789Z
        assert!(time.len() == 30 && time.ends_with('Z') && time[10..].starts_with('T'), "{time}");
    }
    assert_eq!(output.lines().len(), 3);
}

#[test]
fn times_are_limits_with_since_and_until() {
    let store = Store::shared(&["probe"]);
    let container = store.container("since");
    store.sampan(format!("run --name {container} probe args first")).ok();
    let output = store.sampan(format!("logs -t {container}")).ok();
    let time = output.stdout.split(' ').next().unwrap();
    store.sampan(format!("start -a {container}")).ok();
    let logs = |flags: String| store.sampan(format!("logs {flags} {container}")).ok().lines().len();
    assert_eq!(logs(String::new()), 2);
    assert_eq!(logs(format!("--since {time}")), 2);
    assert_eq!(logs(format!("--until {time}")), 1);
    assert_eq!(logs("--since 1h".into()), 2);
    assert_eq!(logs("--until 1h".into()), 0);
    let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(86_400);
    assert_eq!(logs(format!("--since {}", tomorrow.as_secs())), 0);
    store.sampan(format!("logs --since nonsense {container}")).fails(1).stderr_has("nonsense");
}

#[test]
fn a_followed_log_goes_on_until_the_container_ends() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let mut follow = store.shell(&format!("sampan logs -f {web} 2>&1")).start();
    for n in 0..3 {
        sampan_tests::net::get(web.port("8000"), &format!("/{n}")).expect(404);
        follow.says(&format!("GET /{n}\n"));
    }
    assert!(follow.is_running());
    store.sampan(format!("stop {web}")).ok();
    follow.finish().ok().stdout_is("GET /0\nGET /1\nGET /2\n");
}

#[test]
fn a_log_that_is_followed_from_its_tail_has_no_gap() {
    let store = Store::shared(&["probe"]);
    let container = store.container("gap");
    let run = store.sampan(format!("run -i --name {container} probe stdin"));
    let text: String = (0..30_000).map(|n| format!("{n}\n")).collect();
    let mut run = run.start();
    run.write("begin\n");
    run.says("begin");
    let follow = store.sampan(format!("logs -f --tail 1 {container}")).start();
    follow.says("begin");
    run.write(&text);
    run.finish().ok();
    let followed = follow.finish().ok();
    assert!(followed.stdout == format!("begin\n{text}"), "{} lines", followed.lines().len());
}

#[test]
fn following_what_has_ended_shows_it_and_ends() {
    let store = Store::shared(&["probe"]);
    let container = store.container("ended");
    store.sampan(format!("run --name {container} probe args x")).ok();
    store.sampan(format!("logs -f {container}")).ok().stdout_is("x\n");
    let made = store.container("made");
    store.sampan(format!("create --name {made} probe args x")).ok();
    store.sampan(format!("logs {made}")).ok().stdout_is("");
    store.sampan(format!("logs -f {made}")).ok().stdout_is("");
}

#[test]
fn a_follower_whose_reader_has_gone_ends() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 web");
    let head = store.shell(&format!("sampan logs -f {web} 2>&1 | head -n 1")).start();
    sampan_tests::net::get(web.port("8000"), "/first").expect(404);
    head.says("GET /first");
    head.finish().ok();
}

#[test]
fn the_log_of_a_second_run_follows_that_of_the_first() {
    let store = Store::shared(&["probe"]);
    let container = store.container("second");
    store.sampan(format!("run --name {container} probe args once")).ok();
    store.sampan(format!("start -a {container}")).ok().stdout_is("once\n");
    container.logs().stdout_is("once\nonce\n");
}

#[test]
fn a_container_that_is_removed_takes_its_log_along() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("probe forever");
    container.says("ready");
    let follow = store.sampan(format!("logs -f {container}")).start();
    follow.says("ready");
    store.sampan(format!("rm -f {container}")).ok();
    follow.finish().ok().stdout_is("ready\n");
    eventually("it is gone", || !container.exists());
    store.sampan(format!("logs {container}")).fails(1).stderr_has("no such container");
}

#[test]
fn bytes_that_are_no_text_do_not_break_the_log() {
    let store = Store::shared(&["probe"]);
    let container = store.container("bytes");
    let run = store.sampan(format!("run --name {container} -i probe stdin"));
    run.stdin(b"a\xff\xfe\x00b\nnext \"line\" \\ \x1b[0m\n").ok();
    let logged = container.logs();
    assert_eq!(logged.lines().len(), 2, "{logged}");
    assert!(logged.lines()[1].starts_with("next \"line\" \\ "), "{logged}");
}

#[test]
fn a_log_is_rotated_and_read_across_its_files() {
    let store = Store::shared(&["probe"]);
    let container = store.container("rotated");
    let limits = "--log-opt max-size=100k --log-opt max-file=3";
    store.sampan(format!("run --name {container} {limits} probe lines 20000")).ok();
    let dir = store.root().join("containers").join(container.id());
    let size = |name: &str| std::fs::metadata(dir.join(name)).map(|meta| meta.len()).ok();
    assert!(size("json.log.1").is_some() && size("json.log.2").is_some() && size("json.log.3").is_none());
    // A batch more than the limit, at most.
    let total: u64 = ["json.log", "json.log.1", "json.log.2"].into_iter().filter_map(size).sum();
    assert!(total < 3 * (100 << 10) + 3 * (256 << 10), "{total}");
    let number = |line: &str| -> usize { line.strip_prefix("line ").unwrap().parse().unwrap() };
    let lines: Vec<usize> = container.logs().stdout.lines().map(number).collect();
    let last = *lines.last().unwrap();
    assert!(lines.len() > 1000 && lines.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{} lines", lines.len());
    let tail = store.sampan(format!("logs --tail 3000 {container}")).ok().stdout;
    assert_eq!((tail.lines().count(), number(tail.lines().last().unwrap())), (3000, last));
}

#[test]
fn a_log_is_followed_across_its_files() {
    let store = Store::shared(&["probe"]);
    let container = store.container("rotated");
    let limits = "--log-opt max-size=64k --log-opt max-file=50";
    store.sampan(format!("create -i --name {container} {limits} probe stdin")).ok();
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    let run = store.sampan(format!("start -a -i {container}")).stdin(&text).start();
    eventually("it runs", || container.status() != "created");
    let followed = store.sampan(format!("logs -f {container}")).ok();
    run.finish().ok();
    assert!(followed.stdout == text, "{} lines", followed.stdout.lines().count());
}

#[test]
fn a_log_has_the_drivers_format_or_is_none() {
    let store = Store::shared(&["probe"]);
    let container = store.container("cri");
    store.sampan(format!("run --name {container} --log-driver cri probe both 4")).ok();
    container.logs().stdout_is("1\n3\n").stderr_is("2\n4\n");
    let text = std::fs::read_to_string(container.inspect("{{.LogPath}}")).unwrap();
    assert!(text.lines().next().unwrap().ends_with("Z stdout F 1"), "{text}");
    assert_eq!(container.inspect("{{.HostConfig.LogConfig.Type}}"), "cri");
    let silent = store.container("silent");
    store.sampan(format!("run --name {silent} --log-driver none probe both 4")).ok().stdout_is("1\n3\n");
    store.sampan(format!("logs {silent}")).fails(1).stderr_has("--log-driver none");
    for bad in ["--log-driver syslog", "--log-opt max-size=big", "--log-opt max-file=0", "--log-opt compress=true"] {
        store.sampan(format!("run --rm {bad} probe")).fails(125).stderr_has("log");
    }
}
