//! Files: the writable layer, volumes, binds and links.

use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Store};
use std::os::unix::fs::{MetadataExt, symlink};

/// A build context whose image has a directory of links, and files for them to lead to.
fn links() -> Dir {
    let context =
        Dir::context("FROM scratch\nCOPY probe.wasm /probe.wasm\nCOPY tree /\nENTRYPOINT [\"/probe.wasm\"]\n");
    context
        .copy("probe.wasm", &sample_file("probe"))
        .file("tree/data/file", "of the image")
        .file("tree/links/x", "")
        .link("tree/links/absolute", "/data/file")
        .link("tree/links/dir", "/data")
        .link("tree/links/relative", "../data/file")
        .link("tree/links/outside", "../../../../../etc/passwd")
        .link("tree/links/passwd", "/etc/passwd")
        .link("tree/links/loop", "loop")
}

#[test]
fn what_a_container_writes_is_kept_until_it_is_removed() {
    let store = Store::shared(&["probe"]);
    let container = store.container("layer");
    let make = format!("run --name {container} probe mkdir /made");
    store.sampan(&make).ok();
    store.sampan(format!("start -a {container}")).fails(1).stderr_has("exist");
    store.sampan(format!("rm {container}")).ok();
    store.sampan(&make).ok();
}

#[test]
fn no_container_sees_what_another_has_written() {
    let store = Store::shared(&["probe"]);
    let container = store.container("layer");
    store.sampan(format!("run --name {container} probe write /probe.wasm broken")).ok();
    store.sampan("run --rm probe args fine").ok().stdout_is("fine\n");
    // Its own program is broken now, and says so.
    store.sampan(format!("start -a {container}")).fails(126).stderr_has("no Wasm file");
}

#[test]
fn a_file_of_the_image_can_be_removed_in_one_container() {
    let store = Store::shared(&[]);
    store.build_from("files-links", &links());
    let container = store.container("whiteout");
    store.sampan(format!("run --name {container} files-links rm /data/file")).ok();
    store.sampan(format!("start -a {container}")).fails(1).stderr_has("No such file");
    store.sampan("run --rm files-links cat /data/file").ok().stdout_is("of the image");
}

#[test]
fn a_read_only_root_is_not_written_and_its_volumes_are() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new();
    let run = format!("run --rm --read-only -v '{data}:/data' probe");
    store.sampan(format!("{run} write /f x")).fails(1);
    store.sampan(format!("{run} mkdir /d")).fails(1);
    store.sampan(format!("{run} rm /probe.wasm")).fails(1);
    store.sampan(format!("{run} write /data/f x")).ok();
    assert_eq!(data.read("f"), "x");
}

#[test]
fn a_bind_is_the_hosts_directory_itself() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new().file("from-host", "hello");
    store.sampan(format!("run --rm -v '{data}:/data' probe cat /data/from-host")).ok().stdout_is("hello");
    store.sampan(format!("run --rm -v '{data}:/data' probe write /data/sub hi")).ok();
    assert_eq!(data.read("sub"), "hi");
    let owner = |name: &str| data.join(name).metadata().unwrap().uid();
    assert_eq!(owner("sub"), owner("from-host"));
    store.sampan(format!("run --rm -v '{data}:/data' probe rename /data/sub /data/other")).ok();
    store.sampan(format!("run --rm -v '{data}:/data' probe rm /data/from-host")).ok();
    store.sampan(format!("run --rm -v '{data}:/data' probe ls /data")).ok().stdout_is("other\n");
}

#[test]
fn a_read_only_bind_is_read_and_not_written() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new().file("f", "hello");
    let flags = [
        format!("-v '{data}:/data:ro'"),
        format!("--mount 'type=bind,source={data},target=/data,readonly'"),
        format!("--mount 'type=bind,src={data},dst=/data,ro=true'"),
    ];
    for flag in flags {
        store.sampan(format!("run --rm {flag} probe cat /data/f")).ok().stdout_is("hello");
        for change in ["write /data/f x", "write /data/g x", "rm /data/f", "mkdir /data/d", "append /data/f x"] {
            store.sampan(format!("run --rm {flag} probe {change}")).fails(1);
        }
    }
    assert_eq!(data.read("f"), "hello");
}

#[test]
fn a_single_file_can_be_bound() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new().file("conf", "one").file("secret", "other");
    let bind = format!("run --rm -v '{data}/conf:/etc/app/conf' probe");
    store.sampan(format!("{bind} cat /etc/app/conf")).ok().stdout_is("one");
    store.sampan(format!("{bind} write /etc/app/conf two")).ok();
    assert_eq!(data.read("conf"), "two");
    store.sampan(format!("{bind} ls /etc/app")).ok().stdout_is("conf\n");
    let read_only = format!("run --rm -v '{data}/conf:/conf:ro' probe write /conf three");
    store.sampan(read_only).fails(1);
    assert_eq!(data.read("conf"), "two");
}

#[test]
fn a_bind_takes_the_place_of_what_the_image_has_there() {
    let store = Store::shared(&[]);
    store.build_from("files-links", &links());
    let data = Dir::new().file("mine", "x").file("file", "of the host");
    store.sampan(format!("run --rm -v '{data}:/data' files-links ls /data")).ok().stdout_is("file\nmine\n");
    let file = format!("run --rm -v '{data}/file:/data/file' files-links cat /data/file");
    store.sampan(file).ok().stdout_is("of the host");
    store.sampan(format!("run --rm -v '{data}:/data/file' files-links")).fails(125).stderr_has("/data/file");
}

#[test]
fn a_missing_directory_of_the_host_is_made_for_v_and_not_for_mount() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new();
    store.sampan(format!("run --rm -v '{data}/new/dir:/data' probe write /data/f x")).ok();
    assert_eq!(data.read("new/dir/f"), "x");
    let mount = format!("run --rm --mount 'type=bind,source={data}/none,target=/data' probe");
    store.sampan(mount).fails(125).stderr_has("/none").stderr_has("no such file or directory");
    assert!(!data.join("none").exists());
}

#[test]
fn a_bind_may_lie_below_another_whichever_is_named_first() {
    let store = Store::shared(&["probe"]);
    let (outer, inner) = (Dir::new().file("o", "outer"), Dir::new().file("i", "inner"));
    for flags in
        [format!("-v '{outer}:/data' -v '{inner}:/data/in:ro'"), format!("-v '{inner}:/data/in:ro' -v '{outer}:/data'")]
    {
        store.sampan(format!("run --rm {flags} probe ls /data")).ok().stdout_is("in/\no\n");
        store.sampan(format!("run --rm {flags} probe cat /data/in/i")).ok().stdout_is("inner");
        store.sampan(format!("run --rm {flags} probe write /data/in/x x")).fails(1);
    }
}

#[test]
fn a_volume_is_shared_by_its_containers_and_outlives_them() {
    let store = Store::shared(&["probe"]);
    let name = store.container("volume");
    let run = format!("run --rm -v {name}:/data probe");
    store.sampan(format!("{run} write /data/f hello")).ok();
    store.sampan(format!("{run} cat /data/f")).ok().stdout_is("hello");
    store
        .sampan(format!("run --rm --mount source={name},target=/else,readonly probe cat /else/f"))
        .ok()
        .stdout_is("hello");
    let container = store.detached(format!("-v {name}:/data probe forever"));
    store.sampan(format!("volume rm {name}")).fails(1).stderr_has("in use").stderr_has(&container.id()[..12]);
    store.sampan(format!("rm -f -v {container}")).ok();
    store.sampan(format!("{run} cat /data/f")).ok().stdout_is("hello");
    store.sampan(format!("volume rm {name}")).ok().stdout_is(&format!("{name}\n"));
    store.sampan(format!("volume inspect {name}")).fails(1);
}

#[test]
fn a_new_volume_starts_with_what_the_image_has_at_its_place() {
    let store = Store::shared(&[]);
    store.build_from("files-links", &links());
    let name = store.container("seed");
    let run = format!("run --rm -v {name}:/data files-links");
    store.sampan(format!("{run} cat /data/file")).ok().stdout_is("of the image");
    // What is there already stays, and nothing is added to it.
    store.sampan(format!("{run} write /data/file mine")).ok();
    store.sampan(format!("{run} cat /data/file")).ok().stdout_is("mine");
    store.sampan(format!("run --rm -v {name}:/links files-links ls /links")).ok().stdout_is("file\n");
    store.sampan("run --rm files-links cat /data/file").ok().stdout_is("of the image");
    store.sampan(format!("volume rm {name}")).ok();
}

#[test]
fn the_anonymous_volume_of_an_image_goes_with_rm_and_v_and_stays_without() {
    let store = Store::fresh(&["probe"]);
    let context = Dir::context("FROM probe\nCOPY f /data/\nVOLUME /data\n").file("f", "seeded");
    store.build_from("with-volume", &context);
    let volumes = || store.sampan("volume ls -q").ok().lines().len();
    store.sampan("run --rm with-volume cat /data/f").ok().stdout_is("seeded");
    assert_eq!(volumes(), 0);
    for (flags, left) in [("-v", 0), ("", 1)] {
        store.sampan("run --name box with-volume append /data/f !").ok();
        assert_eq!(volumes(), 1);
        store.sampan(format!("rm {flags} box")).ok();
        assert_eq!(volumes(), left);
    }
    // A named one in its place is nobody's to remove.
    store.sampan("run --rm -v kept:/data with-volume cat /data/f").ok().stdout_is("seeded");
    assert_eq!(volumes(), 2);
}

#[test]
fn a_container_keeps_its_anonymous_volume_when_it_is_started_again() {
    let store = Store::shared(&["probe"]);
    let container = store.container("anonymous");
    store.sampan(format!("run --name {container} -v /data probe mkdir /data/made")).ok();
    store.sampan(format!("start -a {container}")).fails(1).stderr_has("exist");
}

#[test]
fn there_is_nothing_above_the_root() {
    let store = Store::shared(&["probe"]);
    for path in ["/../../../../etc/passwd", "/etc/passwd", "../../etc/passwd", "/data/../../etc/passwd"] {
        let data = Dir::new();
        let failed = store.sampan(format!("run --rm -v '{data}:/data' probe cat {path}")).fails(1).stdout_is("");
        assert!(!failed.stderr.contains("root:"), "{failed}");
    }
    store.sampan("run --rm probe ls /").ok().stdout_is("probe.wasm\n");
    store.sampan("run --rm probe ls /proc").fails(1);
}

#[test]
fn links_of_the_image_lead_within_the_image() {
    let store = Store::shared(&[]);
    store.build_from("files-links", &links());
    for path in ["/links/absolute", "/links/dir/file", "/links/relative", "/links/dir/../data/file"] {
        store.sampan(format!("run --rm files-links cat {path}")).ok().stdout_is("of the image");
    }
    store.sampan("run --rm files-links stat /links/absolute").ok().stdout_has("symlink");
    for path in ["/links/outside", "/links/passwd", "/links/loop"] {
        store.sampan(format!("run --rm files-links cat {path}")).fails(1).stdout_is("");
    }
    // A write through a link changes what it leads to, in this container.
    let container = store.container("through");
    store.sampan(format!("run --name {container} files-links write /links/absolute new")).ok();
    let upper = store.root().join("containers").join(container.id()).join("upper/data/file");
    assert_eq!(std::fs::read_to_string(upper).unwrap(), "new");
}

#[test]
fn a_link_that_a_guest_makes_does_not_lead_to_the_host() {
    let store = Store::shared(&["probe", "probe-component"]);
    for image in ["probe", "probe-component"] {
        for target in ["/etc/passwd", "../../../../../../../../etc/passwd", "/proc/self/root/etc/passwd"] {
            // In a volume, so that the second container has the link of the first.
            let data = Dir::new();
            let run = format!("run --rm -v '{data}:/data' {image}");
            // Whether the link may be made is the runtime's to say; that it shows nothing is not.
            let _ = store.sampan(format!("{run} symlink {target} /data/link")).run();
            let _ = symlink(target, data.join("link"));
            let read = store.sampan(format!("{run} cat /data/link")).fails(1).stdout_is("");
            assert!(!read.stderr.contains("root:"), "{read}");
            let before = std::fs::read("/etc/passwd").unwrap();
            store.sampan(format!("{run} append /data/link x")).fails(1);
            assert_eq!(std::fs::read("/etc/passwd").unwrap(), before);
        }
    }
}

#[test]
fn a_guest_can_make_and_follow_links_of_its_own() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new().file("sub/f", "text");
    let run = format!("run --rm -v '{data}:/data' probe");
    store.sampan(format!("{run} symlink sub/f /data/link")).ok();
    store.sampan(format!("{run} readlink /data/link")).ok().stdout_is("sub/f\n");
    store.sampan(format!("{run} cat /data/link")).ok().stdout_is("text");
}

#[test]
fn links_lead_from_a_volume_into_the_image_and_back() {
    let store = Store::shared(&[]);
    store.build_from("files-links", &links());
    let volume = Dir::new().link("out", "../data/file").file("v", "of the volume");
    let run = format!("run --rm -v '{volume}:/vol' files-links");
    store.sampan(format!("{run} cat /vol/out")).ok().stdout_is("of the image");
    let container = store.container("back");
    let back = format!("run --name {container} -v '{volume}:/vol' files-links symlink vol/v /back");
    store.sampan(back).ok();
    store.sampan(format!("{run} cat /vol/../vol/v")).ok().stdout_is("of the volume");
}

#[test]
fn a_mount_at_a_link_of_the_image_stays_in_the_container() {
    let store = Store::shared(&[]);
    store.build_from("files-links", &links());
    let data = Dir::new().file("f", "mounted");
    let run = format!("run --rm -v '{data}:/links/dir/deep' files-links");
    store.sampan(format!("{run} cat /data/deep/f")).ok().stdout_is("mounted");
}

#[test]
fn a_mount_below_a_link_of_the_image_that_leads_nowhere_makes_nothing_on_the_host() {
    let store = Store::shared(&["probe"]);
    let target = std::env::temp_dir().join(format!("away-{}", sampan_tests::files::unique()));
    let context =
        Dir::context("FROM probe\nCOPY tree /\n").file("tree/x", "").link("tree/away", target.to_str().unwrap());
    store.build_from("files-away", &context);
    let data = Dir::new().file("f", "mounted");
    // Whether it is refused or made within the container is not what matters here.
    let _ = store.sampan(format!("run --rm -v '{data}:/away/deep' files-away cat /away/deep/f")).run();
    assert!(!target.exists(), "made on the host");
}

#[test]
fn a_file_cannot_be_renamed_into_another_mount() {
    let store = Store::shared(&["probe"]);
    let (from, to) = (Dir::new().file("f", "x"), Dir::new());
    let run = format!("run --rm -v '{from}:/from' -v '{to}:/to' probe");
    for (old, new) in [("/from/f", "/to/f"), ("/from/f", "/f"), ("/probe.wasm", "/to/p")] {
        store.sampan(format!("{run} rename {old} {new}")).fails(1);
    }
    assert_eq!(from.read("f"), "x");
    store.sampan(format!("{run} rename /from/f /from/g")).ok();
    assert_eq!(from.read("g"), "x");
}

#[test]
fn mounts_are_in_no_other_processes_sight() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new();
    let container = store.detached(format!("-v '{data}:/data' probe forever"));
    let ours = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!ours.contains(&container.id()[..12]) && !ours.contains(&data.to_string()), "{ours}");
}

#[test]
fn an_image_may_have_very_many_layers() {
    let store = Store::fresh(&["probe"]);
    let copies: String = (0..120).map(|n| format!("COPY {n} /all/{n}\n")).collect();
    let context =
        (0..120).fold(Dir::context(&format!("FROM probe\n{copies}")), |dir, n| dir.file(&n.to_string(), n.to_string()));
    store.build_from("many", &context);
    assert_eq!(store.sampan("run --rm many ls /all").ok().lines().len(), 120);
    store.sampan("run --rm many cat /all/77").ok().stdout_is("77");
    store.sampan("run --rm many write /all/77 x").ok();
}

#[test]
fn a_name_with_blanks_and_letters_of_all_kinds_is_a_name() {
    let store = Store::shared(&["probe"]);
    let data = Dir::new().file("a b, ü:ß", "x");
    store.sampan(format!("run --rm -v '{data}:/da ta' probe ls '/da ta'")).ok().stdout_is("a b, ü:ß\n");
    store.sampan(format!("run --rm -v '{data}:/da ta' probe cat '/da ta/a b, ü:ß'")).ok().stdout_is("x");
}
