//! What a second build finds done.

use super::*;
use crate::image::Kept;

/// The numbers of the steps that were cached.
#[derive(Default)]
struct Cached {
    now: usize,
    cached: Vec<usize>,
}

impl Progress for Cached {
    fn step(&mut self, step: &StepInfo<'_>) {
        self.now = step.index;
    }

    fn cached(&mut self) {
        self.cached.push(self.now);
    }
}

impl Fixture {
    /// Builds without a fixed time; the image, and which steps were cached.
    fn again(&self, change: impl FnOnce(&mut BuildOptions)) -> (Image, Vec<usize>) {
        let mut options = BuildOptions { source_date: None, ..self.options(&["it"]) };
        change(&mut options);
        let mut cached = Cached::default();
        let image = build(&self.store, &options, &mut cached).unwrap();
        (image, cached.cached)
    }
}

const DOCKERFILE: &str = "FROM scratch\nWORKDIR /w\nCOPY a .\nENV E=1\nCOPY d /d\nLABEL l=1\n";

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for path in ["a", "d/b", "d/c"] {
        fixture.file(path, path);
    }
    fixture.file("Dockerfile", DOCKERFILE);
    fixture
}

#[test]
fn the_same_again_is_the_same_image_and_nothing_is_made() {
    let fixture = fixture();
    let (first, cached) = fixture.again(|_| {});
    assert_eq!(cached, [0; 0]);
    let contents = fixture.contents();
    let (second, cached) = fixture.again(|_| {});
    assert_eq!(cached, [2, 3, 5]);
    assert_eq!((&second.id, second.created()), (&first.id, first.created()));
    assert_eq!(fixture.contents(), contents);
    // Times of the context's files do not count.
    let file = std::fs::File::options().write(true).open(fixture.context().join("a")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(fixture.again(|_| {}).1, [2, 3, 5]);
    let (anew, cached) = fixture.again(|options| options.no_cache = true);
    assert_eq!(cached, [0; 0]);
    assert_ne!(anew.id, first.id, "it was made at another time");
}

#[test]
fn what_changed_and_all_above_it_is_made_anew() {
    let fixture = fixture();
    let first = fixture.again(|_| {}).0;
    fixture.file("d/c", "changed");
    let (second, cached) = fixture.again(|_| {});
    assert_eq!(cached, [2, 3]);
    assert_eq!(fixture.read(&second, "/d/c").as_deref(), Some("changed"));
    assert_eq!(second.layers[..2], first.layers[..2]);
    fixture.file("d/c", "d/c");
    let (third, cached) = fixture.again(|_| {});
    assert_eq!((third.id, cached), (first.id, vec![2, 3, 5]), "both are known now");
    fixture.file("a", "other");
    assert_eq!(fixture.again(|_| {}).1, [2], "a layer lies on those below it");
    // A mode counts, a setting does not make files.
    fixture.file("a", "a");
    std::fs::set_permissions(fixture.context().join("a"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fixture.again(|_| {}).1, [2]);
    fixture.file("Dockerfile", &DOCKERFILE.replace("E=1", "E=2").replace("COPY d", "COPY ./d"));
    assert_eq!(fixture.again(|_| {}).1, [2, 3, 5]);
}

#[test]
fn a_build_that_fails_keeps_what_it_had_made() {
    let fixture = fixture();
    fixture.file("Dockerfile", &format!("{DOCKERFILE}COPY none /\n"));
    assert!(build(&fixture.store, &fixture.options(&[]), &mut ()).is_err());
    assert!(fixture.images().list().unwrap().is_empty());
    fixture.file("Dockerfile", DOCKERFILE);
    assert_eq!(fixture.again(|options| options.source_date = source_date("1700000000")).1, [2, 3, 5]);
}

#[test]
fn who_removes_an_image_gets_its_place_back() {
    let fixture = fixture();
    fixture.again(|_| {});
    fixture.file("Dockerfile", "FROM it\nCOPY a /top\n");
    let mut options = fixture.options(&["top"]);
    options.source_date = None;
    build(&fixture.store, &options, &mut ()).unwrap();
    fixture.images().remove("it", false, &|_| None).unwrap();
    // The other image has the layers still, and so has the cache.
    fixture.file("Dockerfile", DOCKERFILE);
    assert_eq!(fixture.again(|_| {}).1, [2, 3, 5]);
    fixture.images().remove("it", false, &|_| None).unwrap();
    fixture.images().remove("top", false, &|_| None).unwrap();
    assert_eq!(fixture.contents(), [0, 0, 0]);
    assert_eq!(fixture.again(|_| {}).1, [0; 0]);
}

#[test]
fn the_cache_is_pruned_and_images_keep_what_is_theirs() {
    let fixture = fixture();
    fixture.again(|_| {});
    fixture.file("Dockerfile", &format!("{DOCKERFILE}FROM scratch\nCOPY --from=0 /d/b /only\n"));
    let image = fixture.again(|options| options.tags = vec!["small".parse().unwrap()]).0;
    fixture.file("a", "new");
    fixture.file("Dockerfile", &format!("{DOCKERFILE}FROM scratch\nCOPY --from=0 /d/b /only\n"));
    fixture.again(|_| {});
    let layers = fixture.contents()[1];
    assert_eq!(layers, 3 + 1 + 2, "the image it was, the small one, and a stage that is nobody's");
    let texts = |gone: Vec<(Kept, u64)>| {
        let mut texts: Vec<(String, bool)> = gone.into_iter().map(|(kept, freed)| (kept.text, freed > 0)).collect();
        texts.sort();
        texts
    };
    let gone = fixture.images().prune_cache(&|_, in_image| !in_image).unwrap();
    let expected = [("COPY a .", true), ("COPY d /d", true)].map(|(t, f)| (t.to_owned(), f));
    // The name moved, and the first image has its layers still.
    assert_eq!(texts(gone), expected);
    assert_eq!(fixture.contents()[1], layers - 2);
    let gone = fixture.images().prune_cache(&|_, _| true).unwrap();
    assert!(gone.iter().all(|(_, freed)| *freed == 0) && !gone.is_empty());
    assert_eq!(fixture.read(&image, "/only").as_deref(), Some("d/b"));
    fixture.file("a", "a");
    fixture.file("Dockerfile", DOCKERFILE);
    assert_eq!(fixture.again(|_| {}).1, [0; 0]);
}

#[test]
fn a_layer_that_went_away_is_made_again() {
    let fixture = fixture();
    let image = fixture.again(|_| {}).0;
    std::fs::remove_file(crate::image::blobs::path(&fixture.store, &image.layers[1].digest).unwrap()).unwrap();
    assert_eq!(fixture.again(|_| {}).1, [2, 5]);
}
