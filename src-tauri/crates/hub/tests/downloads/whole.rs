//! What lands in the cache, and what is asked of the hub for it.

use std::fs;

use hearth_hub::{HubError, Phase, Wish, download};

use crate::{
    cuts::interrupted,
    fake::{Door, Trick},
    scene::{ID, Scene, files, noise, tactics, total},
};

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
