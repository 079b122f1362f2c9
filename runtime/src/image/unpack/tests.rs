//! Layers as honest tools make them, and as an enemy would.

use super::*;
use crate::image::entry;
use crate::store::files::tests::temp_dir;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tar::{EntryType, Header};

/// One entry of an archive: name, type, mode, link target or content.
type Entry<'a> = (&'a str, EntryType, u32, &'a str);

const D: EntryType = EntryType::Directory;
const F: EntryType = EntryType::Regular;
const S: EntryType = EntryType::Symlink;
const H: EntryType = EntryType::Link;

/// An archive with these entries, whose names are written as they are.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode, content) in entries {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1000);
        header.set_uid(7);
        header.set_gid(8);
        let mut data = "";
        if matches!(*kind, S | H) {
            header.set_link_name_literal(content).unwrap();
        } else {
            data = content;
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Unpacks an archive over layers (topmost first) into `dir/name`.
fn unpack_over(dir: &Path, name: &str, below: &[PathBuf], archive: &[u8]) -> Result<PathBuf> {
    let blob = dir.join("blob");
    std::fs::write(&blob, archive).unwrap();
    let layer = Layer {
        digest: blobs::digest_of(archive),
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        size: 0,
        diff_id: blobs::digest_of(archive),
        chain_id: String::new(),
        file: None,
    };
    let into = dir.join(name);
    unpack(&layer, &blob, below, &into).map(|()| into)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_layer_is_unpacked_with_its_attributes() {
    let dir = temp_dir();
    let entries = archive(&[
        ("./", D, 0o700, ""),
        ("bin/", D, 0o555, ""),
        ("bin/su", F, 0o4755, "x"),
        ("bin/hard", H, 0o755, "/bin/su"),
        ("a/b/absolute", S, 0o777, "/bin/su"),
        ("a/root", S, 0o777, "/"),
        ("a/climbs", S, 0o777, "../../../etc/passwd"),
        ("a/plain", S, 0o777, "../bin/su"),
        ("/leading", F, 0o600, "slash"),
        ("replaced", F, 0o644, "old"),
        ("replaced", F, 0o644, "new"),
        ("null", EntryType::Char, 0o666, ""),
        ("pipe", EntryType::Fifo, 0o666, ""),
    ]);
    let root = unpack_over(&dir, "l", &[], &entries).unwrap();
    let meta = |path: &str| root.join(path).symlink_metadata().unwrap();
    let link = |path: &str| std::fs::read_link(root.join(path)).unwrap().to_string_lossy().into_owned();
    assert_eq!(meta("").mode() & 0o7777, 0o755, "the root can always be entered");
    assert_eq!((meta("bin").mode() & 0o7777, meta("bin").mtime()), (0o555, 1000));
    assert_eq!((meta("bin/su").mode() & 0o7777, meta("bin/su").mtime()), (0o755, 1000));
    assert_eq!(meta("bin/su").ino(), meta("bin/hard").ino());
    assert_eq!(meta("a").mode() & 0o7777, 0o755);
    assert_eq!(link("a/b/absolute"), "../../bin/su");
    assert_eq!(link("a/root"), "..");
    assert_eq!(link("a/climbs"), "../etc/passwd");
    assert_eq!(link("a/plain"), "../bin/su");
    assert_eq!(meta("a/plain").mtime(), 1000);
    assert_eq!(read(root.join("leading")), "slash");
    assert_eq!(read(root.join("replaced")), "new");
    assert!(!root.join("null").exists() && !root.join("pipe").exists());
    if rustix::process::geteuid().is_root() {
        assert_eq!((meta("bin/su").uid(), meta("bin/su").gid()), (7, 8));
        assert_eq!((meta("a/plain").uid(), meta("bin").gid()), (7, 8));
    }
    crate::store::files::remove_tree(&dir).unwrap();
}

#[test]
fn deletions_become_overlayfs_whiteouts() {
    let dir = temp_dir();
    let lower =
        archive(&[("d/x", F, 0o644, ""), ("o/x", F, 0o644, ""), ("w/x", F, 0o644, ""), ("tmp/", D, 0o1777, "")]);
    let lower = unpack_over(&dir, "lower", &[], &lower).unwrap();
    let upper = archive(&[
        ("d/.wh.x", F, 0, ""),
        ("o/.wh..wh..opq", F, 0, ""),
        ("o/y", F, 0o644, ""),
        // First deleted, then made anew: nothing of the old one may shine through.
        (".wh.w", F, 0, ""),
        ("w/y", F, 0o644, ""),
        // The other way round.
        ("own", F, 0o644, ""),
        (".wh.own", F, 0, ""),
        ("tmp/.wh.gone", F, 0, ""),
        (".wh..wh.plnk", D, 0, ""),
    ]);
    let upper = unpack_over(&dir, "upper", std::slice::from_ref(&lower), &upper).unwrap();
    let both = [upper.clone(), lower];
    let there = |path: &str| entry::find_in_layers(&both, path).unwrap().is_some();
    assert!(entry::is_whiteout(&upper.join("d/x").symlink_metadata().unwrap()));
    assert_eq!(["/d/x", "/o/x", "/o/y", "/w/x", "/w/y", "/own"].map(there), [false, false, true, false, true, true]);
    // A directory that the layer only passes through stays what it is.
    assert_eq!(upper.join("tmp").symlink_metadata().unwrap().mode() & 0o7777, 0o1777);
    assert!(!upper.join(".wh..wh.plnk").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn nothing_is_written_outside() {
    let dir = temp_dir();
    std::fs::write(dir.join("victim"), "safe").unwrap();
    let mode = dir.metadata().unwrap().mode();
    let outside = dir.join("victim").to_string_lossy().into_owned();
    let parent = dir.to_string_lossy().into_owned();
    let cases: &[&[Entry<'_>]] = &[
        &[("../victim", F, 0o644, "evil")],
        &[("a/../../victim", F, 0o644, "evil")],
        &[("l", S, 0o777, "../victim"), ("l", F, 0o644, "evil")],
        &[("l", S, 0o777, ".."), ("l/victim", F, 0o644, "evil")],
        &[("l", S, 0o777, &parent), ("l/victim", F, 0o644, "evil")],
        &[("l", S, 0o777, &parent), ("l/victim", D, 0o777, "")],
        &[("l", S, 0o777, &parent), ("l/.wh.victim", F, 0, "")],
        &[("l", S, 0o777, &parent), ("l/.wh..wh..opq", F, 0, "")],
        &[("h", H, 0o644, "../victim"), ("h", F, 0o644, "evil")],
        &[("h", H, 0o644, &outside)],
        &[("l", S, 0o777, &parent), ("h", H, 0o644, "l/victim")],
        &[(".wh.", F, 0, "")],
        &[(".wh...", F, 0, "")],
        &[("f", F, 0o644, ""), ("f/x", F, 0o644, "")],
        &[("l", S, 0o777, "l"), ("l/x", F, 0o644, "")],
    ];
    for (i, entries) in cases.iter().enumerate() {
        // Some are refused and some land within; both are right, as long as the victim is untouched.
        let done = unpack_over(&dir, &format!("l{i}"), &[], &archive(entries));
        assert_eq!(read(dir.join("victim")), "safe", "{entries:?}");
        assert_eq!(dir.join("victim").metadata().unwrap().nlink(), 1, "{entries:?}");
        assert_eq!(dir.metadata().unwrap().mode(), mode, "{entries:?}");
        if let Err(error) = done {
            let error = error.to_string();
            assert!(error.contains("is refused: entry \""), "{error}");
        }
    }
    // Over a layer that has a link, too.
    let lower = unpack_over(
        &dir,
        "lower",
        &[],
        &archive(&[("lib", S, 0o777, "/usr/lib"), ("out", S, 0o777, "/.."), ("gone", S, 0o777, "lib")]),
    )
    .unwrap();
    let upper = archive(&[
        ("lib/x", F, 0o644, ""),
        ("out/y", F, 0o644, ""),
        // One that this layer deletes is no link any more.
        (".wh.gone", F, 0, ""),
        ("gone/z", F, 0o644, ""),
    ]);
    let upper = unpack_over(&dir, "upper", &[lower], &upper).unwrap();
    assert!(["usr/lib/x", "y", "gone/z"].iter().all(|path| upper.join(path).is_file()));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_layer_must_be_what_the_image_says() {
    let dir = temp_dir();
    let plain = archive(&[("x", F, 0o644, "hello")]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, &plain).unwrap();
    let packed = packed.finish().unwrap();
    let blob = dir.join("blob");
    let mut layer = Layer {
        digest: blobs::digest_of(&packed),
        media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        size: 0,
        diff_id: blobs::digest_of(&plain),
        chain_id: String::new(),
        file: None,
    };
    std::fs::write(&blob, &packed).unwrap();
    unpack(&layer, &blob, &[], &dir.join("good")).unwrap();
    assert_eq!(read(dir.join("good/x")), "hello");

    std::fs::write(&blob, &packed[..packed.len() / 2]).unwrap();
    let error = unpack(&layer, &blob, &[], &dir.join("cut")).unwrap_err().to_string();
    assert!(error.contains("is refused"), "{error}");

    std::fs::write(&blob, &packed).unwrap();
    layer.diff_id = blobs::digest_of(b"another");
    let error = unpack(&layer, &blob, &[], &dir.join("false")).unwrap_err().to_string();
    assert!(error.contains("and the image says sha256:"), "{error}");

    layer.media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
    let error = unpack(&layer, &blob, &[], &dir.join("none")).unwrap_err().to_string();
    assert!(error.contains("no zstd frame"), "{error}");
    let frame = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    std::fs::write(&blob, frame).unwrap();
    layer.diff_id = blobs::digest_of(&plain);
    unpack(&layer, &blob, &[], &dir.join("zstd")).unwrap();
    assert_eq!(std::fs::read(dir.join("zstd/x")).unwrap(), b"hello");

    layer.media_type = "application/vnd.oci.image.layer.v1.tar+xz".to_owned();
    let error = unpack(&layer, &blob, &[], &dir.join("xz")).unwrap_err().to_string();
    assert!(error.contains("tar+xz\"; what can be taken: tar, tar+gzip"), "{error}");

    // A layer that is one file, wherever it says that it belongs.
    layer.media_type = "application/wasm".to_owned();
    for (file, lies_at) in [("/a/b.wasm", Some("a/b.wasm")), ("/", None), ("", None), ("/../x", None)] {
        layer.file = Some(file.to_owned());
        let into = dir.join(format!("file{}", file.len()));
        let unpacked = unpack(&layer, &blob, &[], &into);
        assert_eq!(unpacked.is_ok(), lies_at.is_some_and(|path| into.join(path).is_file()), "{file}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn closed_directories_stop_neither_filling_nor_removing() {
    let dir = temp_dir();
    let entries = archive(&[("d/", D, 0o000, ""), ("d/e/", D, 0o555, ""), ("d/e/f", F, 0o000, "x")]);
    let root = unpack_over(&dir, "l", &[], &entries).unwrap();
    assert_eq!(root.join("d").symlink_metadata().unwrap().permissions().mode() & 0o777, 0);
    flush(&root).unwrap();
    crate::store::files::remove_tree(&dir).unwrap();
    assert!(!dir.exists());
}
