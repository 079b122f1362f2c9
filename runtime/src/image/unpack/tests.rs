//! Layers as honest tools make them, and as an enemy would.

use super::*;
use crate::digest;
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
        digest: digest::of(archive),
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        size: 0,
        diff_id: digest::of(archive),
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
        digest: digest::of(&packed),
        media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        size: 0,
        diff_id: digest::of(&plain),
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
    layer.diff_id = digest::of(b"another");
    let error = unpack(&layer, &blob, &[], &dir.join("false")).unwrap_err().to_string();
    assert!(error.contains("and the image says sha256:"), "{error}");

    layer.media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
    let error = unpack(&layer, &blob, &[], &dir.join("none")).unwrap_err().to_string();
    assert!(error.contains("no zstd frame"), "{error}");
    let frame = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    std::fs::write(&blob, frame).unwrap();
    layer.diff_id = digest::of(&plain);
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

/// Unpacks with limits of the test's own.
fn unpack_within(dir: &Path, archive: &[u8], limits: limits::Limits) -> Option<String> {
    archive::unpack(archive, &mut || Some(vec![]), dir, limits).err().map(|e| e.to_string())
}

#[test]
fn what_is_too_much_is_refused() {
    let dir = temp_dir();
    let usual = limits::Limits::default();
    let mut n = 0;
    let mut refused = |archive: &[u8], limits, words: &str| {
        n += 1;
        let error = unpack_within(&dir.join(n.to_string()), archive, limits).unwrap_or_default();
        assert!(error.contains(words), "{words:?} in {error:?}");
    };
    let small = archive(&[("a", F, 0o644, "x"), ("b", F, 0o644, "x"), ("c/d/e", F, 0o644, "x")]);
    refused(&small, limits::Limits { bytes: 2000, ..usual }, "more than 2000 bytes; SAMPAN_MAX_UNPACKED");
    refused(&small, limits::Limits { entries: 4, ..usual }, "more than 4 entries; SAMPAN_MAX_ENTRIES");
    // A few kilobytes that unpack to gigabytes.
    let bomb = std::io::repeat(0).take(1 << 20);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = Header::new_gnu();
    header.set_size(1 << 20);
    header.set_entry_type(F);
    header.set_path("bomb").unwrap();
    header.set_cksum();
    std::io::Write::write_all(&mut packed, header.as_bytes()).unwrap();
    std::io::copy(&mut { bomb }, &mut packed).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 2000);
    let into = dir.join("bomb");
    let plain = MultiGzDecoder::new(packed.as_slice());
    let error =
        archive::unpack(plain, &mut || Some(vec![]), &into, limits::Limits { bytes: 100_000, ..usual }).unwrap_err();
    assert!(error.to_string().contains("100000 bytes"), "{error}");
    assert!(into.join("bomb").metadata().unwrap().len() <= 100_000);

    // A name that is no name: the reader would hold all of it in memory.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(4 << 20);
    header.set_cksum();
    builder.append(&header, std::io::repeat(b'n').take(4 << 20)).unwrap();
    refused(&builder.into_inner().unwrap(), usual, "headers of one entry");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(0);
    builder.append_data(&mut header, "d/".repeat(3000) + "f", std::io::empty()).unwrap();
    refused(&builder.into_inner().unwrap(), usual, "4096 is the most");
    crate::store::files::remove_tree(&dir).unwrap();
}

#[test]
fn a_sparse_file_counts_as_long_as_it_is() {
    let dir = temp_dir();
    // One block of data at the end of a gigabyte of nothing (GNU tar's old form).
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("sparse").unwrap();
    header.set_size(512);
    header.set_mode(0o644);
    let octal = |field: &mut [u8], n: u64| {
        let text = format!("{n:0width$o}\0", width = field.len() - 1);
        field.copy_from_slice(text.as_bytes());
    };
    let gnu = header.as_gnu_mut().unwrap();
    octal(&mut gnu.sparse[0].offset, (1 << 30) - 512);
    octal(&mut gnu.sparse[0].numbytes, 512);
    octal(&mut gnu.realsize, 1 << 30);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([7; 512]);
    bytes.extend([0; 1024]);
    let limits = limits::Limits { bytes: 1 << 20, ..limits::Limits::default() };
    let error = unpack_within(&dir.join("l"), &bytes, limits).unwrap_or_default();
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

mod properties {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Names that lead into each other: few of them, so that links, files and directories meet.
    fn name() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[ab]",
            2 => Just("..".to_owned()),
            1 => Just(".".to_owned()),
            1 => "\\.wh\\.[ab]",
            1 => Just(".wh..wh..opq".to_owned()),
            1 => Just("victim".to_owned()),
        ];
        (any::<bool>(), vec(part, 1..5)).prop_map(|(absolute, parts)| {
            let path = parts.join("/");
            if absolute { format!("/{path}") } else { path }
        })
    }

    fn kind() -> impl Strategy<Value = EntryType> {
        let all = [F, D, S, H, EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::XGlobalHeader];
        prop::sample::select(all.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever an archive says, nothing outside of its directory is touched, and what is unpacked has no link
        /// that climbs out.
        #[test]
        fn nothing_gets_out(entries in vec((name(), kind(), any::<u16>(), name()), 0..12)) {
            let dir = temp_dir();
            std::fs::write(dir.join("victim"), "safe").unwrap();
            let before = dir.metadata().unwrap().mode();
            let entries: Vec<Entry<'_>> = entries
                .iter()
                .map(|(name, kind, mode, content)| (name.as_str(), *kind, u32::from(*mode), content.as_str()))
                .collect();
            let bytes = archive(&entries);
            let lower = unpack_over(&dir, "lower", &[], &bytes);
            if let Ok(lower) = &lower {
                // The same again on top of itself: links below are followed, too.
                let _ = unpack_over(&dir, "upper", std::slice::from_ref(lower), &bytes);
            }
            prop_assert_eq!(read(dir.join("victim")), "safe");
            prop_assert_eq!(dir.join("victim").metadata().unwrap().nlink(), 1);
            prop_assert_eq!(dir.metadata().unwrap().mode(), before);
            let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.retain(|name| !["blob", "victim", "lower", "upper"].iter().any(|known| name == known));
            prop_assert!(names.is_empty(), "{:?}", names);
            for layer in ["lower", "upper"] {
                check_links(&dir.join(layer), 0);
            }
            crate::store::files::remove_tree(&dir).unwrap();
        }

        /// Bytes that are no archive at all are refused or taken, and break nothing.
        #[test]
        fn noise_breaks_nothing(mut bytes in vec(any::<u8>(), 0..2048), fix in any::<bool>()) {
            if fix && bytes.len() >= 512 {
                // Past the checksum, where it gets interesting.
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[..512]);
                header.set_cksum();
                bytes[..512].copy_from_slice(header.as_bytes());
            }
            let dir = temp_dir();
            let limits = limits::Limits { bytes: 1 << 20, entries: 1000 };
            let _ = unpack_within(&dir.join("l"), &bytes, limits);
            prop_assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
            crate::store::files::remove_tree(&dir).unwrap();
        }
    }

    /// No link says more `..` than there are directories above it.
    fn check_links(dir: &Path, depth: usize) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_symlink() {
                let target = std::fs::read_link(entry.path()).unwrap();
                let leading = target.components().take_while(|c| *c == Component::ParentDir).count();
                assert!(
                    !target.is_absolute() && leading <= depth,
                    "{} -> {}",
                    entry.path().display(),
                    target.display()
                );
            } else if kind.is_dir() {
                let _ = std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o700));
                check_links(&entry.path(), depth + 1);
            }
        }
    }
}
