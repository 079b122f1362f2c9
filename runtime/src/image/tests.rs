//! The images of a store, over their life.

use super::build::{BuildOptions, build};
use super::*;
use crate::digest;
use crate::store::{Store, files};
use std::path::PathBuf;

/// A store with a build context beside it; gone with the value.
pub(super) struct Fixture {
    pub dir: PathBuf,
    pub store: Store,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = files::tests::temp_dir();
        std::fs::create_dir(dir.join("context")).unwrap();
        let store = Store::open(&dir.join("store"), &dir.join("run")).unwrap();
        Self { dir, store }
    }

    pub fn images(&self) -> Images<'_> {
        Images::new(&self.store)
    }

    pub fn context(&self) -> PathBuf {
        self.dir.join("context")
    }

    /// Puts a file into the context.
    pub fn file(&self, path: &str, content: &str) {
        let path = self.context().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn options(&self, tags: &[&str]) -> BuildOptions {
        BuildOptions {
            context: self.context(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            source_date: build::source_date("1700000000"),
            ..BuildOptions::default()
        }
    }

    /// Builds an image whose one file says `content`.
    pub fn image(&self, content: &str, tags: &[&str]) -> Image {
        self.file("f", content);
        self.file("Dockerfile", "FROM scratch\nCOPY f /\nENTRYPOINT [\"/f\"]\n");
        build(&self.store, &self.options(tags), &mut ()).unwrap()
    }

    /// What the store holds: blobs, unpacked layers and what is being made.
    pub fn contents(&self) -> [usize; 3] {
        let count = |path: PathBuf| std::fs::read_dir(path).unwrap().count();
        [self.store.content().join("blobs/sha256"), self.store.layers(), self.store.root().join("tmp")].map(count)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = files::remove_tree(&self.dir);
    }
}

fn names(image: &Image) -> Vec<String> {
    image.names.iter().map(Reference::familiar).collect()
}

const FREE: &dyn Fn(&Image) -> Option<String> = &|_| None;

#[test]
fn chain_ids_follow_the_specification() {
    let diffs = ["sha256:aa", "sha256:bb", "sha256:cc"].map(str::to_owned);
    let chain = chain_ids(&diffs);
    assert_eq!(chain[0], "sha256:aa");
    assert_eq!(chain[1], digest::of(b"sha256:aa sha256:bb"));
    assert_eq!(chain[2], digest::of(format!("{} sha256:cc", chain[1]).as_bytes()));
}

#[test]
fn an_image_is_found_by_every_way_to_say_it() {
    let fixture = Fixture::new();
    assert!(fixture.images().list().unwrap().is_empty());
    let one = fixture.image("one", &["web", "ghcr.io/me/web:1"]);
    let two = fixture.image("two", &[]);
    let pinned = format!("web@{}", one.manifest);
    let hex = one.id.strip_prefix("sha256:").unwrap();
    for wanted in
        ["web", "web:latest", "docker.io/library/web", "ghcr.io/me/web:1", &pinned, &one.id, hex, one.short_id()]
    {
        let found = fixture.images().find(wanted).unwrap();
        assert_eq!(
            (&found.id, names(&found)),
            (&one.id, vec!["web:latest".into(), "ghcr.io/me/web:1".into()]),
            "{wanted}"
        );
    }
    assert_eq!(fixture.images().find(two.short_id()).unwrap().id, two.id);
    assert_eq!(fixture.images().list().unwrap().len(), 2);

    let failure = |wanted: &str| fixture.images().find(wanted).unwrap_err();
    assert!(failure("web:2").to_string().starts_with("no such image: web:2; pull it, build it"));
    assert!(matches!(failure("Web"), ImageError::Reference(_)));
    assert!(matches!(failure("0123456789"), ImageError::NotFound { .. }));
    assert!(matches!(
        failure(&format!("other@{}", one.manifest)),
        ImageError::NotFound { .. } | ImageError::Reference(_)
    ));
}

#[test]
fn a_name_wins_over_an_id_and_short_ids_can_be_ambiguous() {
    let fixture = Fixture::new();
    let mut by_digit = std::collections::BTreeMap::new();
    // Among seventeen ids two begin with the same digit.
    let same = (0..17).find_map(|n| {
        let image = fixture.image(&format!("{n}"), &[]);
        let digit = image.short_id()[..1].to_owned();
        by_digit.insert(digit.clone(), image).map(|other| (digit, other))
    });
    let (digit, image) = same.unwrap();
    assert!(matches!(fixture.images().find(&digit), Err(ImageError::Ambiguous { count: 2, .. })));
    fixture.images().tag(&image, &digit.parse().unwrap()).unwrap();
    assert_eq!(fixture.images().find(&digit).unwrap().id, image.id);
}

#[test]
fn a_name_moves_and_the_old_image_dangles() {
    let fixture = Fixture::new();
    let old = fixture.image("old", &["web"]);
    let new = fixture.image("new", &["web"]);
    assert_eq!(fixture.images().find("web").unwrap().id, new.id);
    assert!(fixture.images().find(old.short_id()).unwrap().names.is_empty());
    fixture.images().tag(&old, &"web".parse().unwrap()).unwrap();
    assert_eq!(fixture.images().find("web").unwrap().id, old.id);
    fixture.images().untag(&"web".parse().unwrap()).unwrap();
    assert!(matches!(fixture.images().find("web"), Err(ImageError::NotFound { .. })));
    assert_eq!(fixture.images().list().unwrap().len(), 2);
    let pinned = format!("web@{}", old.manifest).parse().unwrap();
    assert!(matches!(fixture.images().tag(&old, &pinned), Err(ImageError::DigestAsName { .. })));
    fixture.images().remove(old.short_id(), false, FREE).unwrap();
    assert!(matches!(fixture.images().tag(&old, &"x".parse().unwrap()), Err(ImageError::NotFound { .. })));
}

#[test]
fn removing_follows_docker() {
    let fixture = Fixture::new();
    let image = fixture.image("one", &["a", "b"]);
    let images = fixture.images();
    assert!(matches!(images.remove(image.short_id(), false, FREE), Err(ImageError::SeveralNames { .. })));
    let removed = images.remove("a", false, FREE).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["a:latest".to_owned()], vec![]));
    let removed = images.remove("b", false, FREE).unwrap();
    assert_eq!(removed.untagged, ["b:latest"]);
    assert_eq!(removed.deleted, [image.id.clone(), image.layers[0].chain_id.clone()]);
    assert_eq!(fixture.contents(), [0, 0, 0]);

    let image = fixture.image("one", &["a", "b"]);
    assert_eq!(images.remove(image.short_id(), true, FREE).unwrap().untagged.len(), 2);
    assert_eq!(fixture.contents(), [0, 0, 0]);
}

#[test]
fn what_other_images_need_stays() {
    let fixture = Fixture::new();
    let base = fixture.image("one", &["base"]);
    fixture.file("Dockerfile", "FROM base\nCOPY f /g\n");
    build(&fixture.store, &fixture.options(&["top"]), &mut ()).unwrap();
    let removed = fixture.images().remove("base", false, FREE).unwrap();
    assert_eq!(removed.deleted, [base.id]);
    // Two layers, a manifest and a config.
    assert_eq!(fixture.contents(), [4, 2, 0]);
    let dirs = fixture.images().layer_dirs(&fixture.images().find("top").unwrap()).unwrap();
    assert!(find_in_layers(&dirs, "/f").unwrap().is_some());
    // What a writer that was killed left behind goes with the next image that is removed; no process has that number.
    std::fs::write(fixture.store.content().join("blobs/sha256/0000"), "").unwrap();
    std::fs::write(fixture.store.content().join(".index.json.4194305.0"), "").unwrap();
    fixture.images().remove("top", false, FREE).unwrap();
    assert_eq!(fixture.contents(), [0, 0, 0]);
    assert!(!fixture.store.content().join(".index.json.4194305.0").exists());
}

#[test]
fn an_image_in_use_stays() {
    let fixture = Fixture::new();
    let image = fixture.image("one", &["a", "b"]);
    let used: &dyn Fn(&Image) -> Option<String> = &|image| (image.names.len() < 3).then(|| "c0ffee".to_owned());
    let images = fixture.images();
    images.remove("b", false, used).unwrap();
    let error = images.remove("a", false, used).unwrap_err().to_string();
    assert!(error.starts_with("conflict: image a:latest is used by container c0ffee; remove the container first, or"));
    assert_eq!(images.remove("a", true, used).unwrap().deleted, [""; 0]);
    let error = images.remove(image.short_id(), true, used).unwrap_err().to_string();
    assert!(error.ends_with("remove the container first"), "{error}");
    assert!(images.contains(&image).unwrap());
    assert_eq!(fixture.contents(), [3, 1, 0]);

    // A container that comes in the middle of it keeps the image too.
    let looks = std::cell::Cell::new(0);
    let comes: &dyn Fn(&Image) -> Option<String> = &|_| (looks.replace(looks.get() + 1) > 0).then(|| "late".to_owned());
    assert!(matches!(images.remove(image.short_id(), false, comes), Err(ImageError::InUse { .. })));
    assert!(images.contains(&image).unwrap());
    images.layer_dirs(&image).unwrap();
}

#[test]
fn an_image_that_is_held_stays() {
    let fixture = Fixture::new();
    let image = fixture.image("a", &["a"]);
    let held = fixture.images().hold(&image).unwrap();
    let nobody = |_: &Image| None;
    assert!(matches!(fixture.images().remove("a", false, &nobody), Err(ImageError::InUse { .. })));
    drop(held);
    fixture.images().remove("a", false, &nobody).unwrap();
    assert!(matches!(fixture.images().hold(&image), Err(ImageError::NotFound { .. })));
}

#[test]
fn layers_are_unpacked_when_missing() {
    let fixture = Fixture::new();
    let image = fixture.image("one", &["a"]);
    let dirs = fixture.images().layer_dirs(&image).unwrap();
    assert_eq!(dirs, [fixture.store.layers().join(image.layers[0].chain_id.strip_prefix("sha256:").unwrap())]);
    files::remove_tree(&dirs[0]).unwrap();
    assert_eq!(fixture.images().layer_dirs(&image).unwrap(), dirs);
    assert_eq!(std::fs::read_to_string(find_in_layers(&dirs, "/f").unwrap().unwrap()).unwrap(), "one");
    assert_eq!(fixture.contents(), [3, 1, 0]);
}

#[test]
fn many_at_once_lose_nothing() {
    let fixture = Fixture::new();
    fixture.file("Dockerfile", "FROM scratch\nCOPY f /\n");
    fixture.file("f", "same");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("i{n}-{round}");
                    let mut options = fixture.options(&[&name]);
                    // Half of them share all their blobs, which others take away meanwhile.
                    options.labels = vec![("n".to_owned(), (n / 2).to_string())];
                    let image = build(&fixture.store, &options, &mut ()).unwrap();
                    assert_eq!(fixture.images().find(&name).unwrap().id, image.id);
                    fixture.images().list().unwrap();
                    if round < 4 {
                        fixture.images().remove(&name, false, FREE).unwrap();
                    }
                }
            });
        }
    });
    let images = fixture.images().list().unwrap();
    assert_eq!((images.len(), images.iter().map(|i| i.names.len()).sum::<usize>()), (4, 8));
    for image in &images {
        let dirs = fixture.images().layer_dirs(image).unwrap();
        assert!(find_in_layers(&dirs, "/f").unwrap().is_some());
    }
    assert_eq!(fixture.contents(), [9, 1, 0]);
}

#[test]
fn damage_is_told_and_not_swept_over() {
    let fixture = Fixture::new();
    let good = fixture.image("good", &["good"]);
    let bad = fixture.image("bad", &["bad"]);
    let manifest = blobs::path(&fixture.store, &bad.manifest).unwrap();
    std::fs::write(&manifest, "{").unwrap();
    let error = fixture.images().find("bad").unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(fixture.images().remove("good", false, FREE).unwrap().deleted, [good.id]);
    assert_eq!(fixture.contents()[0], 6, "without the manifest nobody knows what the other image needs");
}

#[test]
#[ignore = "measures: run it alone, with --release"]
fn finding_among_a_hundred_is_quick() {
    let fixture = Fixture::new();
    for n in 0..100 {
        fixture.image(&n.to_string(), &[&format!("ghcr.io/somebody/some-image-{n}:v1")]);
    }
    let timed = |what: &str, f: &dyn Fn()| {
        let start = std::time::Instant::now();
        (0..1000).for_each(|_| f());
        println!("{what}: {:?}", start.elapsed() / 1000);
    };
    let image = fixture.images().find("ghcr.io/somebody/some-image-99:v1").unwrap();
    timed("find by name", &|| drop(fixture.images().find("ghcr.io/somebody/some-image-99:v1").unwrap()));
    timed("find by id", &|| drop(fixture.images().find(image.short_id()).unwrap()));
    timed("index alone", &|| {
        let bytes = index::read(&fixture.store).unwrap();
        drop(index::entries(&fixture.store, &bytes).unwrap());
    });
    timed("layer_dirs", &|| drop(fixture.images().layer_dirs(&image).unwrap()));
    let dirs = fixture.images().layer_dirs(&image).unwrap();
    timed("find_in_layers", &|| drop(find_in_layers(&dirs, "/f").unwrap()));
    timed("list", &|| drop(fixture.images().list().unwrap()));
}
