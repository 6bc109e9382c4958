//! The queue: its order, pausing, cancelling, and that it outlives the program.

#![allow(clippy::unwrap_used)]

mod fake;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use fake::{Door, FakeHub, Trick};
use hearth_hub::{
    Download, DownloadState, Downloads, DownloadsOptions, HubCache, HubToken, Patience, Remote, Tactics, Wish,
};

struct Scene {
    hub: FakeHub,
    root: tempfile::TempDir,
}

impl Scene {
    /// Three small models on the hub, none here.
    fn new() -> Scene {
        let hub = FakeHub::start();
        for name in ["a", "b", "c"] {
            let weights = name.repeat(30_000).into_bytes();
            hub.commit(
                &format!("org/{name}"),
                'c',
                &[("config.json", b"{}".to_vec(), false), ("model.safetensors", weights, true)],
            );
        }
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Scene { hub, root }
    }

    fn slow() -> Scene {
        let scene = Scene::new();
        scene.hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::Drip(1_000)));
        scene
    }

    fn file(&self) -> PathBuf {
        self.root.path().join("downloads.json")
    }

    fn cache(&self) -> HubCache {
        HubCache::at(self.root.path().join("hub"))
    }

    fn queue(&self) -> Downloads {
        let (url, token) = (self.hub.url.clone(), self.root.path().join("token"));
        let connect = move || {
            let token = fs::read_to_string(&token).ok().and_then(|text| HubToken::parse(&text));
            Remote::at(&url, token, Patience::default())
        };
        let tactics = Tactics {
            connections: 2,
            segment: 8_000,
            first_pause: Duration::from_millis(5),
            ..Tactics::default()
        };
        Downloads::start(DownloadsOptions {
            cache: self.cache(),
            file: self.file(),
            connect: Arc::new(connect),
            tactics,
        })
    }
}

fn wish(name: &str) -> Wish {
    Wish::new(&format!("org/{name}"), None).unwrap()
}

async fn until(queue: &Downloads, wanted: impl Fn(&[Download]) -> bool) -> Vec<Download> {
    let mut list = queue.list();
    let reached = tokio::time::timeout(Duration::from_secs(60), list.wait_for(|list| wanted(list))).await;
    let reached = reached.unwrap_or_else(|_| panic!("not reached: {:?}", queue.list().borrow()));
    reached.unwrap().to_vec()
}

fn states(list: &[Download]) -> Vec<(&str, DownloadState)> {
    list.iter().map(|d| (&d.id["org/".len()..], d.state)).collect()
}

#[tokio::test]
async fn models_come_one_after_the_other_in_the_order_they_were_asked_for() {
    let scene = Scene::new();
    let queue = scene.queue();
    for name in ["b", "a", "c"] {
        queue.add(wish(name)).await.unwrap();
    }
    let list = until(&queue, |list| list.iter().all(|d| d.state == DownloadState::Done)).await;
    assert_eq!(states(&list).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["b", "a", "c"]);
    assert_eq!(scene.cache().ids(), ["org/a", "org/b", "org/c"]);
    let asked: Vec<String> =
        scene.hub.log().into_iter().filter(|a| a.door == Door::Api).map(|a| a.path[16..17].into()).collect();
    assert_eq!(asked, ["b", "a", "c"]);
    assert_eq!(fs::read_to_string(scene.file()).unwrap(), "[]", "what is done needs no queue");
}

#[tokio::test]
async fn pause_lets_the_next_one_go_and_resume_goes_on_where_it_was() {
    let scene = Scene::slow();
    let queue = scene.queue();
    let first = queue.add(wish("a")).await.unwrap();
    queue.add(wish("b")).await.unwrap();
    until(&queue, |list| list[0].progress.done > 3_000).await;
    assert!(queue.pause(first).await);
    scene.hub.behave();
    let list = until(&queue, |list| list[1].state == DownloadState::Done).await;
    assert_eq!(list[0].state, DownloadState::Paused);
    let kept = list[0].progress.done;
    assert!(kept > 0 && list[0].progress.bytes == Some(30_002), "{list:?}");
    scene.hub.forget_log();
    assert!(queue.resume(first).await);
    until(&queue, |list| list[0].state == DownloadState::Done).await;
    let asked: u64 = scene
        .hub
        .log()
        .iter()
        .filter(|a| a.door == Door::Cdn)
        .filter_map(|a| a.range)
        .map(|(a, b)| b - a)
        .sum();
    assert!(asked < 30_000, "{asked}");
    assert!(
        !queue.pause(99).await
            && !queue.resume(99).await
            && !queue.cancel(99).await
            && !queue.move_to(99, 0).await
    );
}

#[tokio::test]
async fn one_that_is_moved_to_the_front_takes_over() {
    let scene = Scene::slow();
    let queue = scene.queue();
    queue.add(wish("a")).await.unwrap();
    queue.add(wish("b")).await.unwrap();
    let last = queue.add(wish("c")).await.unwrap();
    until(&queue, |list| list[0].progress.bytes.is_some()).await;
    assert!(queue.move_to(last, 0).await);
    let list = until(&queue, |list| list[0].state == DownloadState::Running).await;
    let running = [DownloadState::Running, DownloadState::Queued, DownloadState::Queued];
    assert_eq!(states(&list), ["c", "a", "b"].into_iter().zip(running).collect::<Vec<_>>());
    assert!(queue.move_to(last, 2).await);
    let list = until(&queue, |list| list[0].state == DownloadState::Running).await;
    assert_eq!(states(&list).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn cancel_deletes_what_was_fetched() {
    let scene = Scene::slow();
    let queue = scene.queue();
    let number = queue.add(wish("a")).await.unwrap();
    until(&queue, |list| list[0].progress.done > 1_000).await;
    assert!(scene.root.path().join("hub/models--org--a/blobs").exists());
    assert!(queue.cancel(number).await);
    until(&queue, <[Download]>::is_empty).await;
    assert!(!scene.root.path().join("hub/models--org--a").exists());
    assert_eq!(fs::read_to_string(scene.file()).unwrap(), "[]");
}

#[tokio::test]
async fn the_queue_outlives_the_program() {
    let scene = Scene::slow();
    let queue = scene.queue();
    queue.add(wish("a")).await.unwrap();
    let second = queue.add(wish("b")).await.unwrap();
    queue.add(wish("c")).await.unwrap();
    queue.pause(second).await;
    until(&queue, |list| list[0].progress.done > 3_000).await;
    drop(queue);
    // The task ends on its own once the handle is gone; the second queue is another program.
    tokio::time::sleep(Duration::from_millis(700)).await;
    scene.hub.behave();
    let queue = scene.queue();
    assert!(queue.list().borrow()[0].progress.bytes == Some(30_002), "how far it was is known at once");
    let list = until(&queue, |list| {
        list.iter().all(|d| matches!(d.state, DownloadState::Done | DownloadState::Paused))
    })
    .await;
    assert_eq!(
        states(&list),
        [("a", DownloadState::Done), ("b", DownloadState::Paused), ("c", DownloadState::Done)]
    );
    drop(queue);

    // A file that is no queue costs the queue and nothing else.
    fs::write(scene.file(), "rubbish").unwrap();
    assert!(scene.queue().list().borrow().is_empty());
}

#[tokio::test]
async fn one_that_failed_says_why_lets_the_others_go_on_and_can_be_tried_again() {
    let scene = Scene::new();
    scene.hub.world.lock().unwrap().gated.insert("org/a".into(), "hf_right".into());
    let queue = scene.queue();
    let number = queue.add(wish("a")).await.unwrap();
    queue.add(wish("b")).await.unwrap();
    let list = until(&queue, |list| list[1].state == DownloadState::Done).await;
    let problem = list[0].problem.as_ref().unwrap();
    assert_eq!((list[0].state, problem.code.as_str()), (DownloadState::Failed, "gated_model"));
    assert!(problem.next_step.contains("token"), "{problem:?}");
    fs::write(scene.root.path().join("token"), "hf_right\n").unwrap();
    // Asking for it again is as good as Resume.
    assert_eq!(queue.add(wish("a")).await, Some(number));
    until(&queue, |list| list[0].state == DownloadState::Done).await;
}

#[tokio::test]
async fn trouble_is_shown_while_it_is_tried_again() {
    let scene = Scene::new();
    scene.hub.trick(|_| Some(Trick::Status(503, vec![("retry-after", "1".into())])));
    let queue = scene.queue();
    queue.add(wish("a")).await.unwrap();
    let list = until(&queue, |list| list[0].progress.trouble.is_some()).await;
    let trouble = list[0].progress.trouble.as_ref().unwrap();
    assert_eq!((trouble.problem.code.as_str(), list[0].state), ("hub_fault", DownloadState::Running));
    scene.hub.behave();
    let list = until(&queue, |list| list[0].state == DownloadState::Done).await;
    assert_eq!(list[0].progress.trouble, None);
}
