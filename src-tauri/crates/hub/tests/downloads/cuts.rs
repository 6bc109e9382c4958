//! Whatever cuts a download off, damages it or stands in its way: it goes on where it was, or says why it cannot.

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    os::unix::fs::{MetadataExt, symlink},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hearth_hub::{HubError, Wish, download};

use crate::{
    fake::{Door, Trick},
    scene::{ID, Scene, files, noise, tactics, total},
};

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
pub async fn interrupted(scene: &Scene, run: impl Future<Output = Result<PathBuf, HubError>>) {
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
