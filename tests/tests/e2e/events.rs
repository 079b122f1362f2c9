//! `events`: what happens, as it happens.

use sampan_tests::Store;

fn actions(text: &str) -> Vec<String> {
    text.lines().map(|line| line.to_owned()).collect()
}

#[test]
fn the_life_of_a_container_is_told() {
    let store = Store::fresh(&["probe"]);
    let name = "told-one";
    let follow = store
        .sampan(format!("events --filter container={name} --format"))
        .arg("{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
        .start();
    store.sampan(format!("create --name {name} --label tier=front probe forever")).ok();
    for command in ["start", "pause", "unpause", "restart", "kill", "rm"] {
        store.sampan(format!("{command} {name}")).ok();
    }
    follow.says("destroy");
    follow.signal(rustix::process::Signal::TERM);
    let told = actions(&follow.finish().stdout);
    let lines = |actions: &[&str]| -> Vec<String> {
        actions.iter().map(|action| format!("container {action} {name}")).collect()
    };
    let expected = ["create", "start", "pause", "unpause", "die", "stop", "start", "restart", "kill", "die", "destroy"];
    // Two processes tell of a kill: who asked for it, and who saw the end.
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    assert_eq!(sorted(told.clone()), sorted(lines(&expected)), "{told:?}");
    assert_eq!(told.first(), lines(&["create"]).first());
    let died =
        store.sampan("events --since 1h --until 0s --filter event=die --filter label=tier=front --format json").ok();
    assert_eq!(died.stdout.lines().count(), 2);
    died.stdout_has(r#""exitCode":"143""#).stdout_has(r#""exitCode":"137""#).stdout_has(r#""from":"probe""#);
}

#[test]
fn images_volumes_and_networks_are_told_too() {
    let store = Store::fresh(&["probe"]);
    for command in [
        "tag probe other",
        "rmi other",
        "volume create data",
        "volume rm data",
        "network create net0",
        "network rm net0",
    ] {
        store.sampan(command).ok();
    }
    let told = store.sampan("events --since 1h --until 0s --format").arg("{{.Type}} {{.Action}}").ok().stdout;
    let expected = [
        "image tag",
        "image tag",
        "image untag",
        "volume create",
        "volume destroy",
        "network create",
        "network destroy",
    ];
    assert_eq!(actions(&told), expected);
    store.sampan("events --filter colour=red").fails(1).stderr_has("the known ones are");
}
