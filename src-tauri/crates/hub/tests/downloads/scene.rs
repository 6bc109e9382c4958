//! A hub with one model, an empty cache, and what should come of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_hub::{HubCache, HubError, HubToken, Meter, Patience, Remote, Tactics, Wish, download};

use crate::fake::{Door, FakeHub};

pub const ID: &str = "Org/Model";

pub fn tactics() -> Tactics {
    Tactics {
        connections: 3,
        segment: 40_000,
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(40),
    }
}

pub fn noise(length: usize, seed: u32) -> Vec<u8> {
    let step = |x: &mut u32| {
        *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*x >> 24) as u8)
    };
    (0..length).scan(seed, |x, _| step(x)).collect()
}

pub fn files() -> Vec<(&'static str, Vec<u8>, bool)> {
    vec![
        ("README.md", noise(900, 1), false),
        ("config.json", b"{\"model_type\":\"qwen3_5\"}".to_vec(), false),
        ("model-00001-of-00002.safetensors", noise(210_000, 2), true),
        ("model-00002-of-00002.safetensors", noise(95_001, 3), true),
        ("tokenizer.json", noise(5000, 4), false),
        ("pytorch_model.bin", noise(7000, 5), true),
    ]
}

pub struct Scene {
    pub hub: FakeHub,
    pub root: tempfile::TempDir,
    pub meter: Arc<Meter>,
    pub silence: Duration,
}

impl Scene {
    pub fn new() -> Scene {
        let hub = FakeHub::start();
        hub.commit(ID, 'a', &files());
        // In memory where that can be had: disks that take their time to flush would take the tests' time.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Scene { hub, root, meter: Arc::default(), silence: Duration::from_secs(20) }
    }

    pub fn remote(&self, token: Option<&str>) -> Remote {
        let patience = Patience { connect: Duration::from_secs(20), silence: self.silence };
        Remote::at(&self.hub.url, token.and_then(HubToken::parse), patience).unwrap()
    }

    pub fn cache(&self) -> HubCache {
        HubCache::at(self.root.path().join("hub"))
    }

    pub fn folder(&self) -> PathBuf {
        self.root.path().join("hub/models--Org--Model")
    }

    pub async fn get(&self) -> Result<PathBuf, HubError> {
        self.get_with(None).await
    }

    pub async fn get_with(&self, token: Option<&str>) -> Result<PathBuf, HubError> {
        let wish = Wish::new(ID, None).unwrap();
        let remote = self.remote(token);
        let cache = self.cache();
        let done = download(&remote, &cache, &wish, tactics(), &self.meter);
        tokio::time::timeout(Duration::from_secs(600), done).await.expect("it comes to an end")
    }

    /// What lies in the snapshot is what the hub has, and nothing else is left.
    pub fn assert_whole(&self, snapshot: &Path) {
        self.assert_holds(snapshot, &files());
    }

    pub fn assert_holds(&self, snapshot: &Path, files: &[(&str, Vec<u8>, bool)]) {
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
    pub fn asked_bytes(&self) -> u64 {
        let log = self.hub.log();
        log.iter()
            .filter(|a| a.door != Door::Resolve || a.path.ends_with(".json"))
            .filter_map(|a| a.range)
            .map(|(a, b)| b - a)
            .sum()
    }
}

pub fn total() -> u64 {
    files()
        .iter()
        .filter(|(name, ..)| !name.ends_with(".bin") && !name.ends_with(".md"))
        .map(|(_, b, _)| b.len() as u64)
        .sum()
}
