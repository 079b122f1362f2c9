//! What a container may use of its machine, and what becomes of it when it wants more.

use sampan_tests::net::{self, Http};
use sampan_tests::{Container, Dir, Store, eventually};
use std::time::{Duration, Instant};

#[test]
fn a_command_that_wants_more_memory_than_it_may_have_is_oom_killed() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        let container = store.container("oom");
        let run = store.sampan(format!("run --name {container} -m 32m {image} alloc 64000000")).fails(137);
        run.stdout_is("").stderr_has("out of memory").stderr_has("--memory");
        assert_eq!(container.inspect("{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
        let listed = store.sampan(format!("ps -a --filter name={container} --format {{{{.Status}}}}")).ok().line();
        assert!(listed.starts_with("Exited (137)"), "{listed}");
        store.sampan(format!("run --rm -m 128m {image} alloc 64000000")).ok().stdout_is("allocated 64000000 bytes\n");
    }
}

#[test]
fn what_a_module_has_from_its_start_counts_too() {
    let store = Store::shared(&[]);
    let dir = Dir::new().file("large.wat", r#"(module (memory (export "memory") 100) (func (export "_start")))"#).file(
        "tables.wat",
        r#"(module (memory (export "memory") 1) (table 1000000 funcref) (func (export "_start")))"#,
    );
    for file in ["large.wat", "tables.wat"] {
        let run = store.sampan(format!("run --rm -m 2m ./{file}")).dir(dir.path()).fails(137);
        run.stderr_has("out of memory");
        store.sampan(format!("run --rm -m 16m ./{file}")).dir(dir.path()).ok();
    }
}

#[test]
fn programs_of_one_container_share_its_memory() {
    let store = Store::shared(&["toolbox", "probe"]);
    store.build_from("limits-spawn", &Dir::context("FROM toolbox\nCOPY --from=probe /probe.wasm /bin/probe\n"));
    let container = store.container("oom");
    let script = "probe alloc 20000000; probe alloc 64000000; echo $?; probe alloc 20000000";
    let run = store.sampan(format!("run --name {container} -m 48m --allow-spawn limits-spawn sh -c")).arg(script).ok();
    // The first one's memory was given back when it ended.
    run.stdout_is("allocated 20000000 bytes\n137\nallocated 20000000 bytes\n").stderr_has("out of memory");
    assert_eq!(container.inspect("{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 0");
}

#[test]
fn a_request_that_wants_too_much_is_500_and_the_service_goes_on() {
    let store = Store::shared(&["web"]);
    let web = store.detached("-p 8000 -m 32m web");
    let port = web.port("8000");
    for _ in 0..3 {
        net::get(port, "/alloc?bytes=64000000").expect(500);
        assert_eq!(net::get(port, "/alloc?bytes=8000000").expect(200).text(), "allocated 8000000 bytes\n");
    }
    eventually("its diagnostics say so", || {
        let said = web.diagnostics();
        said.contains("/alloc?bytes=64000000") && said.contains("--memory")
    });
    assert_eq!(
        web.inspect("{{.State.OOMKilled}} {{.HostConfig.Memory}} {{.Sampan.Limits.Memory}}"),
        "false 33554432 33554432"
    );
}

#[test]
fn a_limit_that_was_not_asked_for_is_shown() {
    let store = Store::shared(&["hello"]);
    let container = store.container("default");
    store.sampan(format!("create --name {container} hello")).ok();
    assert_eq!(container.inspect("{{.HostConfig.Memory}}"), "0");
    let bytes: u64 = container.inspect("{{.Sampan.Limits.Memory}}").parse().unwrap();
    assert!(bytes > 32 << 20, "{bytes}");
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let store = Store::shared(&["hello"]);
    for (flags, words) in [("-m 1k", "64KiB"), ("-m lots", "512m"), ("--memory=-1", "size")] {
        store.sampan(format!("run --rm {flags} hello")).fails(125).stderr_has(words);
    }
}

/// The processor time of a process, in seconds, from its threads' clocks (proc_pid_stat(5)).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// What share of a processor a container takes over so many seconds. The clock is what is looked at here.
fn share(container: &Container<'_>, seconds: f64) -> f64 {
    let (pid, begun) = (container.host(), Instant::now());
    let before = cpu_seconds(pid);
    std::thread::sleep(Duration::from_secs_f64(seconds));
    (cpu_seconds(pid) - before) / begun.elapsed().as_secs_f64()
}

#[test]
fn a_guest_that_computes_gets_the_processors_that_it_was_given() {
    let store = Store::shared(&["probe", "probe-component", "web"]);
    let module = store.detached("--cpus 0.3 probe spin");
    let component = store.detached("--cpus 0.2 probe-component spin");
    let web = store.detached("-p 8000 --cpus 0.2 --http-timeout 0 web");
    let port = web.port("8000");
    let mut busy: Vec<Http> = (0..3).map(|_| Http::connect(port)).collect();
    busy.iter_mut().for_each(|http| http.send("GET", "/spin", b""));
    module.says("spinning");
    component.says("spinning");
    eventually("the service is at it", || web.logs().stderr.matches("/spin").count() == 3);
    for (container, given) in [(&module, 0.3), (&component, 0.2), (&web, 0.2)] {
        let got = share(container, 10.0);
        // Never much more, with the half second that it may have saved. Less, where others of this machine are busy too.
        assert!((given * 0.5..=given * 1.1 + 0.05).contains(&got), "{container} was given {given} and got {got:.3}");
    }
    // The others' requests are answered all the same.
    net::get(port, "/").expect(200);
    assert_eq!(module.inspect("{{.HostConfig.NanoCpus}}"), "300000000");
    store.sampan(format!("stop -t 1 {module} {component} {web}")).ok();
}

#[test]
fn a_container_with_a_share_sleeps_without_waking_up() {
    let store = Store::shared(&["probe"]);
    let container = store.detached("--cpus 0.5 probe forever");
    container.says("ready");
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", container.host())).unwrap().flatten();
        let status = tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default());
        let of = |status: String| -> u64 {
            let lines = status.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            lines.map(|count| count.trim().parse::<u64>().unwrap()).sum()
        };
        status.map(of).sum::<u64>()
    };
    eventually("it has come to rest", || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(500));
        switches() == before
    });
}

#[test]
fn a_smaller_share_of_a_busy_machine_gives_way() {
    let store = Store::shared(&["probe"]);
    let small = store.detached("-c 256 probe spin");
    small.says("spinning");
    let stat = std::fs::read_dir(format!("/proc/{}/task", small.host())).unwrap().flatten();
    let nice = stat.map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
    });
    // 1.25 to the sixth is the factor that lies next to four.
    assert_eq!(nice.max(), Some(6));
    assert_eq!(small.inspect("{{.HostConfig.CpuShares}}"), "256");
}

#[test]
fn a_container_whose_time_is_over_ends_with_124() {
    let store = Store::shared(&["probe", "probe-component", "web", "tcp"]);
    for line in ["probe spin", "probe forever", "probe-component forever", "probe-component spin"] {
        let begun = Instant::now();
        let run = store.sampan(format!("run --rm --timeout 500ms {line}")).fails(124);
        assert!(begun.elapsed() >= Duration::from_millis(500), "{run:?}");
    }
    // Who has doors sees them close, and ends in its own time.
    for line in ["-p 8000 web", "-p 7000 tcp"] {
        let container = store.detached(format!("--timeout 1s {line}"));
        assert_eq!(container.wait(), 124);
        assert!(container.inspect("{{.State.Error}}").contains("--timeout"));
    }
    // Who ends before has its own code.
    store.sampan("run --rm --timeout 1m probe exit 7").fails(7);
}

#[test]
fn a_program_has_no_more_files_open_than_it_may() {
    let store = Store::shared(&["probe", "probe-component", "tcp", "p3"]);
    for image in ["probe", "probe-component"] {
        let run = store.sampan(format!("run --rm --ulimit nofile=20 {image} attack files /probe.wasm")).ok();
        let line = run.line();
        // Its streams and its root directory are among the 20; the C library keeps one more of these.
        let opened: usize = line.split(' ').next().unwrap().parse().unwrap();
        assert!((14..=16).contains(&opened), "{line}");
    }
    store.sampan("run --rm --ulimit nofile=20 tcp sockets 100").ok().stdout_has("17 sockets: new-socket-limit");
    store.sampan("run --rm --ulimit nofile=20 p3").ok();
    for (flags, words) in
        [("--ulimit nproc=3", "nofile"), ("--ulimit nofile=1", "too few"), ("--cpus 1000", "processors")]
    {
        store.sampan(format!("run --rm {flags} probe")).fails(125).stderr_has(words);
    }
}

#[test]
fn a_layer_gets_no_larger_than_it_may() {
    let store = Store::shared(&["probe", "probe-component", "toolbox"]);
    let volume = Dir::new();
    for image in ["probe", "probe-component"] {
        let container = store.container("storage");
        let flags = format!("--storage-opt size=3m -v {volume}:/v");
        store.sampan(format!("run --rm {flags} {image} fill /f 2000000")).ok();
        store.sampan(format!("run --name {container} {flags} {image} fill /f 4000000")).fails(1).stderr_has("space");
        let upper = store.root().join("containers").join(container.id()).join("upper/f");
        assert!(std::fs::metadata(upper).unwrap().len() <= 3 << 20);
        // A sparse file counts as much as a full one.
        store.sampan(format!("run --rm {flags} {image} attack sparse /f 4294967296")).fails(1).stderr_has("space");
        // A volume is no part of it.
        store.sampan(format!("run --rm {flags} {image} fill /v/f 4000000")).ok();
        assert_eq!(container.inspect("{{.HostConfig.StorageOpt.size}}"), "3145728");
    }
    // What is removed is room again, and all programs share it.
    let script = "for i in 1 2 3 4 5 6; do cat /bin/sh > /f || exit 1; rm /f; done; echo done";
    let line = "run --rm --allow-spawn --storage-opt size=3m toolbox sh -c";
    store.sampan(line).arg(script).ok().stdout_is("done\n");
    store.sampan(line).arg("for i in 1 2 3 4 5 6; do cat /bin/sh >> /f || exit 7; done").fails(7);
    store.sampan("run --rm --storage-opt basesize=1g probe").fails(125).stderr_has("size=1g");
}

#[test]
fn limits_are_changed_while_a_container_runs() {
    let store = Store::shared(&["web", "probe"]);
    let web = store.detached("-p 8000 web");
    let asks = |status| drop(net::get(web.port("8000"), "/alloc?bytes=64000000").expect(status));
    asks(200);
    store.sampan(format!("update -m 32m {web}")).ok();
    asks(500);
    assert_eq!(web.inspect("{{.HostConfig.Memory}} {{.Sampan.Limits.Memory}}"), "33554432 33554432");
    store.sampan(format!("restart {web}")).ok();
    asks(500);
    store.sampan(format!("update -m 0 {web}")).ok();
    asks(200);

    let busy = store.detached("probe spin");
    busy.says("spinning");
    let share = || {
        let stats = store.sampan(format!("stats --no-stream --format '{{{{.CPUPerc}}}}' {busy}")).ok();
        stats.line().trim_end_matches('%').parse::<f64>().unwrap()
    };
    store.sampan(format!("update --cpus 0.2 --cpu-shares 512 {busy}")).ok();
    eventually("it is held up", || (15.0..=25.0).contains(&share()));
    let nice = std::fs::read_dir(format!("/proc/{}/task", busy.host())).unwrap().any(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(16) == Some("3")
    });
    assert!(nice, "no thread of it gives way");
    store.sampan(format!("update --cpu-quota 30000 {busy}")).ok();
    assert_eq!(busy.inspect("{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}}"), "300000000 512");
    store.sampan(format!("update --cpus 0 {busy}")).ok();
    eventually("it goes on as it can", || share() > 35.0);
    // What cannot be is refused, and changes nothing.
    store.sampan(format!("update -m 100k {busy}")).fails(1).stderr_has("bytes of memory, more than the 102400");
    assert_eq!(busy.inspect("{{.HostConfig.Memory}}"), "0");
    store.sampan(format!("update {busy}")).fails(1).stderr_has("--memory");
    store.sampan(format!("kill {busy}")).ok();
    store.sampan(format!("update -m 48m {busy}")).ok();
    assert_eq!(busy.inspect("{{.HostConfig.Memory}}"), "50331648");
}
