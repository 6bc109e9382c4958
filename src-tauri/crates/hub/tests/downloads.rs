//! Downloads against a server on loopback that speaks the hub's protocol and breaks it at every kind of moment.

#![allow(clippy::unwrap_used)]

mod fake;

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fake::{Door, FakeHub, Trick};
use hearth_hub::{HubCache, HubError, HubToken, Meter, Patience, Phase, Remote, Tactics, Wish, download};

const ID: &str = "Org/Model";

fn tactics() -> Tactics {
    Tactics {
        connections: 3,
        segment: 40_000,
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(40),
    }
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let step = |x: &mut u32| {
        *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*x >> 24) as u8)
    };
    (0..length).scan(seed, |x, _| step(x)).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>, bool)> {
    vec![
        ("README.md", noise(900, 1), false),
        ("config.json", b"{\"model_type\":\"qwen3_5\"}".to_vec(), false),
        ("model-00001-of-00002.safetensors", noise(210_000, 2), true),
        ("model-00002-of-00002.safetensors", noise(95_001, 3), true),
        ("tokenizer.json", noise(5000, 4), false),
        ("pytorch_model.bin", noise(7000, 5), true),
    ]
}

struct Scene {
    hub: FakeHub,
    root: tempfile::TempDir,
    meter: Arc<Meter>,
    silence: Duration,
}

impl Scene {
    fn new() -> Scene {
        let hub = FakeHub::start();
        hub.commit(ID, 'a', &files());
        // In memory where that can be had: disks that take their time to flush would take the tests' time.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Scene { hub, root, meter: Arc::default(), silence: Duration::from_secs(20) }
    }

    fn remote(&self, token: Option<&str>) -> Remote {
        let patience = Patience { connect: Duration::from_secs(20), silence: self.silence };
        Remote::at(&self.hub.url, token.and_then(HubToken::parse), patience).unwrap()
    }

    fn cache(&self) -> HubCache {
        HubCache::at(self.root.path().join("hub"))
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("hub/models--Org--Model")
    }

    async fn get(&self) -> Result<PathBuf, HubError> {
        self.get_with(None).await
    }

    async fn get_with(&self, token: Option<&str>) -> Result<PathBuf, HubError> {
        let wish = Wish::new(ID, None).unwrap();
        let remote = self.remote(token);
        let cache = self.cache();
        let done = download(&remote, &cache, &wish, tactics(), &self.meter);
        tokio::time::timeout(Duration::from_secs(600), done).await.expect("it comes to an end")
    }

    /// What lies in the snapshot is what the hub has, and nothing else is left.
    fn assert_whole(&self, snapshot: &Path) {
        self.assert_holds(snapshot, &files());
    }

    fn assert_holds(&self, snapshot: &Path, files: &[(&str, Vec<u8>, bool)]) {
        let wanted: BTreeSet<&str> = files
            .iter()
            .map(|(name, ..)| *name)
            .filter(|n| !n.ends_with(".bin") && !n.ends_with(".md"))
            .collect();
        let found: Vec<String> =
            fs::read_dir(snapshot).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted);
        for (name, bytes, _) in files.iter().filter(|(name, ..)| wanted.contains(name)) {
            assert!(fs::read(snapshot.join(name)).unwrap() == *bytes, "{name} differs");
            assert!(fs::symlink_metadata(snapshot.join(name)).unwrap().is_symlink(), "{name}");
        }
        let blobs = fs::read_dir(self.folder().join("blobs")).unwrap();
        let odd: Vec<_> = blobs
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.contains('.'))
            .collect();
        assert!(odd.is_empty(), "left over: {odd:?}");
    }

    /// Bytes that were asked for in ranges, with those asked for again.
    fn asked_bytes(&self) -> u64 {
        let log = self.hub.log();
        log.iter()
            .filter(|a| a.door != Door::Resolve || a.path.ends_with(".json"))
            .filter_map(|a| a.range)
            .map(|(a, b)| b - a)
            .sum()
    }
}

fn total() -> u64 {
    files()
        .iter()
        .filter(|(name, ..)| !name.ends_with(".bin") && !name.ends_with(".md"))
        .map(|(_, b, _)| b.len() as u64)
        .sum()
}

#[tokio::test]
async fn a_model_lands_in_the_cache_as_hugging_face_lays_it_out() {
    let scene = Scene::new();
    let snapshot = scene.get().await.unwrap();
    scene.assert_whole(&snapshot);
    let commit = "a".repeat(40);
    assert_eq!(snapshot, scene.folder().join("snapshots").join(&commit));
    assert_eq!(fs::read_to_string(scene.folder().join("refs/main")).unwrap(), commit);
    assert_eq!(scene.cache().snapshot(ID).unwrap(), snapshot);
    assert_eq!(scene.cache().ids(), [ID]);
    let target = fs::read_link(snapshot.join("config.json")).unwrap();
    assert!(target.to_str().unwrap().starts_with("../../blobs/"), "{target:?}");
    let progress = scene.meter.progress();
    assert_eq!((progress.phase, progress.bytes, progress.done), (Phase::Verifying, Some(total()), total()));
    assert_eq!(progress.verified, progress.to_verify);
    assert_eq!(scene.asked_bytes(), total(), "every byte is fetched once");
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let scene = Scene::new();
    scene.get().await.unwrap();
    scene.hub.forget_log();
    let snapshot = scene.get().await.unwrap();
    scene.assert_whole(&snapshot);
    assert_eq!(scene.asked_bytes(), 0);
}

#[tokio::test]
async fn what_another_tool_left_half_done_is_gone_on_with() {
    let scene = Scene::new();
    let (name, bytes, _) = files().remove(2);
    let blob = scene
        .hub
        .world
        .lock()
        .unwrap()
        .commits
        .values()
        .flatten()
        .find(|f| f.name == name)
        .unwrap()
        .blob
        .clone();
    fs::create_dir_all(scene.folder().join("blobs")).unwrap();
    fs::write(scene.folder().join("blobs").join(format!("{blob}.incomplete")), &bytes[..150_000]).unwrap();
    let snapshot = scene.get().await.unwrap();
    scene.assert_whole(&snapshot);
    assert_eq!(scene.asked_bytes(), total() - 150_000);
}

#[tokio::test]
async fn a_connection_may_break_at_any_moment() {
    let busy = |status, wait: &str| Trick::Status(status, vec![("retry-after", wait.into())]);
    let tricks = [
        Trick::Hang,
        Trick::HalfHead,
        Trick::CutAfter(0),
        Trick::CutAfter(1),
        Trick::CutAfter(20_000),
        Trick::SilentAfter(0),
        Trick::SilentAfter(17),
        Trick::SignIn,
        busy(429, "0"),
        busy(500, ""),
        busy(502, "x"),
        busy(503, "0"),
        busy(408, ""),
    ];
    for trick in tricks {
        // Together: most of their time is waiting.
        tokio::join!(
            survives(trick.clone(), Door::Api),
            survives(trick.clone(), Door::Resolve),
            survives(trick.clone(), Door::Cdn)
        );
    }
}

async fn survives(trick: Trick, door: Door) {
    // Only silence has to be waited out; anything else is seen at once, however busy the machine is.
    let is_silence = matches!(trick, Trick::SilentAfter(_));
    let silence = Duration::from_millis(if is_silence { 700 } else { 60_000 });
    let scene = Scene { silence, ..Scene::new() };
    let (mut count, shown) = (0, trick.clone());
    // Two of the first requests at this door, and two later ones.
    scene.hub.trick(move |asked| {
        count += u32::from(asked.door == door);
        let now = asked.door == door && matches!(count, 1 | 2 | 7 | 14);
        now.then(|| shown.clone())
    });
    let got = scene.get().await;
    let snapshot = got.unwrap_or_else(|error| panic!("{trick:?} at {door:?}: {error}"));
    scene.assert_whole(&snapshot);
}

#[tokio::test]
async fn what_a_cut_connection_brought_is_kept() {
    let scene = Scene::new();
    scene.hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::CutAfter(9_000)));
    scene.get().await.unwrap();
    // Each try asks for the rest of a range of 40,000 bytes and gets 9,000 of them.
    let log = scene.hub.log();
    let asked = || log.iter().filter(|asked| asked.door == Door::Cdn);
    let pieces: BTreeSet<_> = asked().filter_map(|asked| Some((&asked.path, asked.range?.0))).collect();
    assert_eq!(asked().count(), pieces.len(), "no byte that came is asked for again");
    assert!(pieces.len() >= 305_001 / 9_000, "{pieces:?}");
}

/// Drops a slow download when a part of the weights has come, and been written.
async fn interrupted(scene: &Scene, run: impl Future<Output = Result<PathBuf, HubError>>) {
    let enough = async {
        let parts = || fs::read_dir(scene.folder().join("blobs")).into_iter().flatten().flatten();
        let written = || parts().filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum::<u64>();
        while scene.meter.progress().done < 40_000 || written() < 20_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    };
    tokio::select! {
        done = run => panic!("it was to be slow: {done:?}"),
        () = enough => {}
    }
}

#[tokio::test]
async fn a_download_that_is_dropped_goes_on_where_it_was() {
    let scene = Scene::new();
    scene.hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::Drip(2_000)));
    interrupted(&scene, scene.get()).await;
    scene.hub.behave();
    scene.hub.forget_log();
    let snapshot = scene.get().await.unwrap();
    scene.assert_whole(&snapshot);
    assert!(scene.asked_bytes() < total(), "something had been kept");
}

#[tokio::test]
async fn a_damaged_file_is_fetched_again_once_and_never_shown() {
    let scene = Scene::new();
    let mut once = false;
    scene.hub.trick(move |asked| {
        let first = asked.door == Door::Cdn
            && asked.range.is_some_and(|(a, _)| a == 0)
            && !std::mem::replace(&mut once, true);
        first.then_some(Trick::Corrupt)
    });
    let snapshot = scene.get().await.unwrap();
    scene.assert_whole(&snapshot);

    let scene = Scene::new();
    scene.hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::Corrupt));
    let error = scene.get().await.unwrap_err();
    assert_eq!(error.code(), "damaged_download");
    assert!(scene.cache().snapshot(ID).is_err(), "it is not shown");

    // A small file is checked by git's own hash.
    let scene = Scene::new();
    scene.hub.trick(|asked| asked.path.ends_with("config.json").then_some(Trick::Corrupt));
    assert_eq!(scene.get().await.unwrap_err().code(), "damaged_download");
}

#[tokio::test]
async fn a_gated_model_needs_a_token_which_only_the_hub_sees() {
    let scene = Scene::new();
    scene.hub.world.lock().unwrap().gated.insert(ID.into(), "hf_right".into());
    for (token, with_token) in [(None, false), (Some("hf_wrong"), true)] {
        match scene.get_with(token).await {
            Err(HubError::Gated { with_token: sent, .. }) => assert_eq!(sent, with_token),
            other => panic!("{other:?}"),
        }
    }
    let snapshot = scene.get_with(Some("hf_right")).await.unwrap();
    scene.assert_whole(&snapshot);
    let told = scene.hub.log().into_iter().filter(|asked| asked.door == Door::Cdn && asked.token.is_some());
    assert_eq!(told.count(), 0, "the other origin must not see the token");
}

#[tokio::test]
async fn what_is_not_there_is_told_and_not_tried_again() {
    let scene = Scene::new();
    let ask = async |id: &str, revision: Option<&str>, token: Option<&str>| {
        let wish = Wish::new(id, revision).unwrap();
        let error = download(&scene.remote(token), &scene.cache(), &wish, tactics(), &scene.meter).await;
        error.unwrap_err().code()
    };
    assert_eq!(ask("Org/None", None, None).await, "not_on_hub");
    assert_eq!(ask("Org/None", None, Some("hf_x")).await, "not_on_hub");
    assert_eq!(ask(ID, Some("v9"), None).await, "no_such_revision");
    assert_eq!(scene.hub.log().len(), 3);
    for bad in ["../up", "a/../b", "", "a b", ".hidden", "refs/x.new"] {
        assert!(Wish::new(ID, Some(bad)).is_err(), "{bad:?}");
    }
    assert!(Wish::new("no-slash", None).is_err() && Wish::new("a/../b", None).is_err());
}

#[tokio::test]
async fn a_commit_that_went_away_is_followed_to_what_the_branch_holds_now() {
    let scene = Scene::new();
    scene.hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::Drip(2_000)));
    let mut wish = Wish::new(ID, None).unwrap();
    let (remote, cache) = (scene.remote(None), scene.cache());
    interrupted(&scene, download(&remote, &cache, &wish, tactics(), &scene.meter)).await;
    scene.hub.behave();
    wish.commit = scene.meter.progress().commit;
    assert_eq!(wish.commit.as_deref(), Some("a".repeat(40).as_str()));
    let mut newer = files();
    newer[1].1 = b"{\"model_type\":\"other\"}".to_vec();
    scene.hub.world.lock().unwrap().commits.clear();
    scene.hub.commit(ID, 'b', &newer);
    scene.hub.forget_log();
    let snapshot = download(&remote, &cache, &wish, tactics(), &scene.meter).await.unwrap();
    scene.assert_holds(&snapshot, &newer);
    assert!(snapshot.ends_with("b".repeat(40)));
    assert!(scene.asked_bytes() < total(), "what did not change is not fetched again");
}

#[tokio::test]
async fn a_pinned_commit_stays_although_the_branch_moved() {
    let scene = Scene::new();
    let mut newer = files();
    newer[1].1 = b"{}".to_vec();
    scene.hub.commit(ID, 'b', &newer);
    let wish = Wish { commit: Some("a".repeat(40)), ..Wish::new(ID, None).unwrap() };
    let got = download(&scene.remote(None), &scene.cache(), &wish, tactics(), &scene.meter).await.unwrap();
    scene.assert_whole(&got);
}

#[tokio::test]
async fn a_file_that_is_not_what_the_listing_says_is_seen_before_it_is_kept() {
    for trick in [Trick::OtherEtag, Trick::OtherTotal] {
        let scene = Scene::new();
        let shown = trick.clone();
        scene.hub.trick(move |asked| (asked.door != Door::Api).then(|| shown.clone()));
        assert_eq!(scene.get().await.unwrap_err().code(), "changed_on_hub", "{trick:?}");
        // Once only: the listing is asked again and all is well.
        let scene = Scene::new();
        let mut left = 1;
        scene.hub.trick(move |asked| {
            let now = asked.door != Door::Api
                && left > 0
                && (trick != Trick::OtherTotal || asked.door == Door::Cdn);
            left -= i32::from(now);
            now.then(|| trick.clone())
        });
        let snapshot = scene.get().await.unwrap();
        scene.assert_whole(&snapshot);
    }
}

#[tokio::test]
async fn a_disk_without_room_is_told_before_the_first_byte() {
    let scene = Scene::new();
    let large = "model-00001-of-00002.safetensors".to_owned();
    scene.hub.world.lock().unwrap().told_sizes.insert(large, 1 << 52);
    match scene.get().await {
        Err(HubError::DiskFull { needed, free, .. }) => assert!(needed > 1 << 52 && free < needed),
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.asked_bytes(), 0);
}

#[tokio::test]
async fn a_disk_that_fills_up_on_the_way_stops_it_and_what_was_fetched_stays() {
    let scene = Scene::new();
    let blob = |n: &str| {
        scene.hub.world.lock().unwrap().commits.values().flatten().find(|f| f.name == n).unwrap().blob.clone()
    };
    let full = format!("{}.hearth-part", blob("model-00002-of-00002.safetensors"));
    let blobs = scene.folder().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    // A device on which every write fails for want of room, as the kernel tells it.
    symlink("/dev/full", blobs.join(&full)).unwrap();
    let error = scene.get().await.unwrap_err();
    assert_eq!(error.code(), "disk_full", "{error}");
    fs::remove_file(blobs.join(&full)).unwrap();
    let before = scene.meter.progress().done;
    scene.hub.forget_log();
    let snapshot = scene.get().await.unwrap();
    scene.assert_whole(&snapshot);
    assert!(before > 0 && scene.asked_bytes() < total());
}

#[tokio::test]
async fn two_programs_do_not_write_the_same_file() {
    let scene = Scene::new();
    scene.hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::Drip(2_000)));
    let first = scene.get();
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let wish = Wish::new(ID, None).unwrap();
        let error = download(&scene.remote(None), &scene.cache(), &wish, tactics(), &Arc::default()).await;
        scene.hub.behave();
        error.unwrap_err().code()
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second, "download_busy");
    scene.assert_whole(&first.unwrap());
}

#[tokio::test]
async fn a_journal_that_was_damaged_costs_time_and_nothing_else() {
    for damage in [&b"{"[..], br#"{"size":210000,"done":[[0,999999]]}"#, br#"{"size":3,"done":[[0,3]]}"#, b""]
    {
        let scene = Scene::new();
        let file = scene
            .hub
            .world
            .lock()
            .unwrap()
            .commits
            .values()
            .flatten()
            .find(|f| f.large)
            .unwrap()
            .blob
            .clone();
        let blobs = scene.folder().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{file}.hearth-part")), noise(400_000, 9)).unwrap();
        fs::write(blobs.join(format!("{file}.hearth-part.json")), damage).unwrap();
        let snapshot = scene.get().await.unwrap();
        scene.assert_whole(&snapshot);
    }
}

#[tokio::test]
async fn the_search_is_asked_and_bad_entries_are_dropped() {
    let scene = Scene::new();
    let found = scene.remote(None).search("qwen 3.6", 20).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id.as_str(), found[0].gated, found[0].parameters), ("Org/Model", true, Some(1000)));
    assert_eq!(found[0].licence.as_deref(), Some("mit"));
}

#[tokio::test]
async fn deleting_tells_what_it_frees_and_frees_it() {
    let scene = Scene::new();
    scene.get().await.unwrap();
    let folder = scene.cache().repository(ID).unwrap();
    let frees = folder.removal().unwrap().frees;
    assert!((total()..total() + 100_000).contains(&frees), "{frees} for {}", total());
    assert_eq!(folder.remove().unwrap().frees, frees);
    assert!(!scene.folder().exists() && scene.cache().ids().is_empty());
    let left: Vec<_> =
        fs::read_dir(scene.root.path().join("hub")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".locks"]);
}

#[tokio::test]
async fn one_gguf_file_is_downloaded_by_its_name_and_found_by_the_repositorys() {
    let scene = Scene::new();
    let files: Vec<(&str, Vec<u8>, bool)> = vec![
        ("README.md", noise(900, 1), false),
        ("m-Q4_K_M.gguf", noise(120_000, 2), true),
        ("m-Q8_0.gguf", noise(150_000, 3), true),
    ];
    scene.hub.commit(ID, 'c', &files);
    let wish = |file: Option<&str>| Wish::new(ID, None).unwrap().of_file(file.map(str::to_owned));
    let (remote, cache) = (scene.remote(None), scene.cache());
    for (file, code) in [(None, "gguf_not_supported"), (Some("m-Q5.gguf"), "no_such_file")] {
        let error = download(&remote, &cache, &wish(file), tactics(), &scene.meter).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains("m-Q4_K_M.gguf, m-Q8_0.gguf"), "{error}");
    }
    let get =
        async |file| download(&remote, &cache, &wish(Some(file)), tactics(), &scene.meter).await.unwrap();
    let snapshot = get("m-Q8_0.gguf").await;
    assert_eq!(fs::read(snapshot.join("m-Q8_0.gguf")).unwrap(), files[2].1);
    assert!(!snapshot.join("m-Q4_K_M.gguf").exists() && !snapshot.join("README.md").exists());
    let found = hearth_hub::locate(ID, Some(&cache)).unwrap();
    let path = snapshot.join("m-Q8_0.gguf");
    assert_eq!(found, hearth_hub::Location::Folder { path, id: Some(ID.into()) });
    assert_eq!(cache.ids(), [ID]);
    // Another beside it makes the repository's name say too little.
    get("m-Q4_K_M.gguf").await;
    let error = hearth_hub::locate(ID, Some(&cache)).unwrap_err();
    assert!(matches!(error, HubError::SeveralGguf { count: 2, .. }), "{error}");
    assert!(snapshot.join("m-Q8_0.gguf").exists());
}
