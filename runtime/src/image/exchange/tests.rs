//! Archives that come back as they went, and archives that are not what they say.

use super::*;
use crate::digest;
use crate::image::tests::Fixture;
use crate::image::{Image, Reference, blobs, find_in_layers};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// The files of an archive.
type Files = BTreeMap<String, Vec<u8>>;

fn files(archive: &[u8]) -> Files {
    let mut archive = tar::Archive::new(archive);
    let file = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), content)
    };
    archive.entries().unwrap().map(file).filter(|(name, _)| !name.ends_with('/')).collect()
}

fn pack(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn save(fixture: &Fixture, wanted: &[&str], format: ArchiveFormat) -> Vec<u8> {
    let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
    let mut archive = Vec::new();
    fixture.images().save(&wanted, format, &mut archive).unwrap();
    archive
}

fn load(fixture: &Fixture, archive: &[u8]) -> crate::image::Result<Vec<Image>> {
    Archive::read(&fixture.store, archive)?.publish()
}

fn names(image: &Image) -> Vec<String> {
    image.names.iter().map(Reference::familiar).collect()
}

/// Two images that share a layer.
fn two_images(fixture: &Fixture) -> [Image; 2] {
    let base = fixture.image("one", &["base", "base:2"]);
    fixture.file("Dockerfile", "FROM base\nCOPY f /g\n");
    let top = crate::image::build::build(&fixture.store, &fixture.options(&["ghcr.io/me/top:1"]), &mut ()).unwrap();
    [base, top]
}

#[test]
fn what_is_saved_is_loaded_as_it_was() {
    let from = Fixture::new();
    let [base, top] = two_images(&from);
    for format in [ArchiveFormat::Both, ArchiveFormat::Oci, ArchiveFormat::Docker] {
        let archive = save(&from, &["base", "ghcr.io/me/top:1"], format);
        assert_eq!(archive, save(&from, &["base", "ghcr.io/me/top:1"], format), "twice the same");
        let to = Fixture::new();
        let loaded = load(&to, &archive).unwrap();
        assert_eq!(loaded.iter().map(|i| &i.id).collect::<Vec<_>>(), [&base.id, &top.id], "{format:?}");
        assert_eq!(names(&loaded[0]), ["base:latest", "base:2"]);
        assert_eq!(names(&loaded[1]), ["ghcr.io/me/top:1"]);
        if format != ArchiveFormat::Docker {
            assert_eq!(loaded[1].manifest, top.manifest);
        }
        let dirs = to.images().layer_dirs(&loaded[1]).unwrap();
        assert!(find_in_layers(&dirs, "/g").unwrap().is_some());
        assert_eq!(to.contents()[1..], [2, 0]);
        // And once more, gzip'ed, on top of what is there.
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&archive).unwrap();
        assert_eq!(load(&to, &packed.finish().unwrap()).unwrap().len(), 2);
        assert_eq!(to.images().list().unwrap().len(), 2);
    }
    // By its id an image has no name in the archive.
    let to = Fixture::new();
    let loaded = load(&to, &save(&from, &[base.short_id()], ArchiveFormat::Both)).unwrap();
    assert!(loaded[0].names.is_empty());
    assert!(from.images().save(&["none".to_owned()], ArchiveFormat::Both, Vec::new()).is_err());
}

#[test]
fn a_damaged_blob_is_not_saved() {
    let fixture = Fixture::new();
    let image = fixture.image("one", &["a"]);
    let blob = blobs::path(&fixture.store, &image.layers[0].digest).unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    for format in [ArchiveFormat::Both, ArchiveFormat::Docker] {
        let error = fixture.images().save(&["a".to_owned()], format, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
    assert_eq!(fixture.contents()[2], 0);
}

/// Changes an archive's JSON file, and whatever names it by its digest.
fn change(files: &mut Files, name: &str, edit: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_slice(&files.remove(name).unwrap()).unwrap();
    edit(&mut value);
    let bytes = value.to_string().into_bytes();
    let digest = digest::of(&bytes);
    let new = match name.starts_with(BLOBS) {
        true => format!("{BLOBS}{}", digest::hex(&digest).unwrap()),
        false => name.to_owned(),
    };
    files.insert(new, bytes);
    digest
}

/// Changes the manifest of an archive with one image, and the index that names it.
fn change_manifest(files: &mut Files, edit: impl FnOnce(&mut Value)) {
    let index: Value = serde_json::from_slice(&files[INDEX]).unwrap();
    let hex = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let digest = change(files, &format!("{BLOBS}{hex}"), edit);
    let size = files[&format!("{BLOBS}{}", digest::hex(&digest).unwrap())].len();
    change(files, INDEX, |index| {
        index["manifests"][0]["digest"] = json!(digest);
        index["manifests"][0]["size"] = json!(size);
    });
}

#[test]
fn what_is_not_as_it_says_is_refused_and_leaves_nothing() {
    let from = Fixture::new();
    from.image("one", &["a"]);
    let good = files(&save(&from, &["a"], ArchiveFormat::Oci));
    let to = Fixture::new();
    let refused = |edit: &dyn Fn(&mut Files), words: &[&str]| {
        let mut files = good.clone();
        edit(&mut files);
        let error = load(&to, &pack(&files)).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error:?}");
        }
        assert_eq!(to.contents(), [0, 0, 0], "{error}");
    };
    assert!(load(&Fixture::new(), &pack(&good)).is_ok());
    refused(&|f| f.clear(), &["no images", "no file at all"]);
    refused(&|f| drop(f.remove(INDEX)), &["wanted index.json", "found blobs/"]);
    refused(&|f| drop(f.insert(INDEX.to_owned(), b"<html>".to_vec())), &["index.json is not what was expected"]);
    refused(&|f| drop(f.insert(INDEX.to_owned(), vec![b' '; 5 << 20])), &["index.json has 5242880 bytes"]);
    refused(&|f| drop(f.insert(LAYOUT.to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec())), &["\"2.0.0\""]);
    refused(&|f| drop(change(f, INDEX, |i| i["manifests"] = json!([]))), &["names no image"]);
    refused(&|f| drop(change(f, INDEX, |i| i["manifests"][0]["size"] = json!(3))), &["has 3 bytes by what is said"]);
    refused(&|f| drop(change(f, INDEX, |i| i["manifests"][0]["digest"] = json!("md5:00"))), &["no sha256 digest"]);
    refused(
        &|f| drop(change(f, INDEX, |i| i["manifests"][0]["annotations"][CONTAINERD_NAME] = json!("a b"))),
        &["invalid image name"],
    );
    refused(
        &|f| drop(change(f, INDEX, |i| i["manifests"][0]["mediaType"] = json!("text/plain"))),
        &["\"text/plain\"", "what is accepted is application/vnd.oci.image.manifest.v1+json"],
    );
    refused(&|f| change_manifest(f, |m| m["schemaVersion"] = json!(1)), &["schema version 1"]);
    refused(&|f| change_manifest(f, |m| m["layers"] = json!([])), &["has 1 layers, and its manifest 0"]);
    refused(&|f| change_manifest(f, |m| m["layers"][0]["mediaType"] = json!("x/y")), &["the type x/y", "tar+gzip"]);
    refused(&|f| change_manifest(f, |m| m["layers"][0]["size"] = json!(1)), &["layer sha256:", "1 bytes"]);
    // A blob that is not what its name says, and one that is not there.
    let blob = |f: &Files| f.keys().find(|name| name.starts_with(BLOBS)).unwrap().clone();
    refused(
        &|f| drop(f.insert(blob(f), b"other".to_vec())),
        &["the content of blobs/sha256/", "has the digest sha256:"],
    );
    refused(&|f| drop(f.remove(&blob(f))), &["is named in it and is not in it"]);
}

#[test]
fn a_docker_archive_with_links_and_without_parts() {
    let from = Fixture::new();
    let image = from.image("one", &["a"]);
    let good = files(&save(&from, &["a"], ArchiveFormat::Docker));
    let layer = good.keys().find(|name| name.ends_with(".tar")).unwrap().clone();

    // Docker wrote a layer that was there already as a link to it.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "one/layer.tar", format!("../{layer}")).unwrap();
    for (name, content) in &good {
        let content = match name.as_str() {
            DOCKER_MANIFEST => {
                String::from_utf8(content.clone()).unwrap().replace(&layer, "one/layer.tar").into_bytes()
            }
            _ => content.clone(),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    let to = Fixture::new();
    assert_eq!(load(&to, &builder.into_inner().unwrap()).unwrap()[0].id, image.id);

    let to = Fixture::new();
    for (gone, words) in [(layer.as_str(), ".tar\", which is not in it"), (DOCKER_MANIFEST, "wanted index.json")] {
        let mut files = good.clone();
        files.remove(gone);
        let error = load(&to, &pack(&files)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // Another layer than the config says.
    let mut files = good.clone();
    files.insert(layer, tar::Builder::new(Vec::new()).into_inner().unwrap());
    let error = load(&to, &pack(&files)).unwrap_err().to_string();
    assert!(error.contains("is refused: its archive has the digest"), "{error}");
    assert_eq!(to.contents(), [0, 0, 0]);
}

#[test]
fn an_index_in_the_index_gives_what_is_for_wasm() {
    let from = Fixture::new();
    from.image("one", &["a"]);
    let good = files(&save(&from, &["a"], ArchiveFormat::Oci));
    let index: Value = serde_json::from_slice(&good[INDEX]).unwrap();
    let entry = |os: &str, arch: &str| {
        let mut entry = index["manifests"][0].clone();
        entry["platform"] = json!({"os": os, "architecture": arch});
        entry
    };
    let nest = |inner: Vec<Value>| {
        let mut files = good.clone();
        let inner = json!({"schemaVersion": 2, "manifests": inner}).to_string().into_bytes();
        let digest = digest::of(&inner);
        let outer = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": inner.len(),
            "annotations": {REF_NAME: "nested:1"},
        }]});
        files.insert(format!("{BLOBS}{}", digest::hex(&digest).unwrap()), inner);
        files.insert(INDEX.to_owned(), outer.to_string().into_bytes());
        pack(&files)
    };
    // What is for another platform need not even be there.
    let mut missing = entry("linux", "amd64");
    missing["digest"] = json!(digest::of(b"elsewhere"));
    let attested = entry("unknown", "unknown");
    let loaded = load(&Fixture::new(), &nest(vec![missing.clone(), attested, entry("wasip1", "wasm")])).unwrap();
    assert_eq!(names(&loaded[0]), ["nested:1"]);
    let native = nest(vec![missing, entry("linux", "arm64")]);
    let error = load(&Fixture::new(), &native).unwrap_err().to_string();
    assert!(error.contains("linux/amd64, linux/arm64") && error.contains("wasip2/wasm"), "{error}");
    assert!(load(&Fixture::new(), &nest(vec![entry("linux", "amd64")])).is_ok(), "the only one is meant");
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// One changed byte anywhere: the archive is refused and leaves nothing, or it is the image that it was.
        #[test]
        fn a_flipped_byte_makes_no_other_image(at in any::<prop::sample::Index>(), mask in 1_u8..) {
            let from = Fixture::new();
            let image = from.image("one", &["a"]);
            let mut archive = save(&from, &["a"], ArchiveFormat::Oci);
            let at = at.index(archive.len());
            archive[at] ^= mask;
            let to = Fixture::new();
            match load(&to, &archive) {
                Ok(loaded) => prop_assert_eq!(&loaded[0].id, &image.id),
                Err(_) => prop_assert_eq!(to.contents(), [0, 0, 0]),
            }
        }
    }
}
