//! What is known of a model before its weights are downloaded.

#![allow(clippy::unwrap_used)]

mod fake;

use std::{fs, os::unix::fs::MetadataExt};

use fake::{Door, FakeHub, Trick};
use hearth_hub::{Patience, Remote, RemoteOutline, Wish};

/// A safetensors file of one tensor, with a header of at least `header` bytes.
fn safetensors(tensor: usize, header: usize) -> Vec<u8> {
    let filler = "x".repeat(header);
    let text = format!(
        r#"{{"__metadata__":{{"f":"{filler}"}},"w":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{tensor}]}}}}"#,
        tensor / 4
    );
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.bytes());
    file.extend(vec![7; tensor]);
    file
}

fn hub() -> (FakeHub, tempfile::TempDir, Vec<u8>, Vec<u8>) {
    let hub = FakeHub::start();
    let (small, large) = (safetensors(4_000_000, 10), safetensors(400, 700_000));
    hub.commit(
        "Org/Model",
        'a',
        &[
            ("config.json", b"{\"a\": 1}".to_vec(), false),
            ("model-00001-of-00002.safetensors", small.clone(), true),
            ("model-00002-of-00002.safetensors", large.clone(), true),
            ("tokenizer.json", vec![b' '; 90_000], true),
        ],
    );
    (hub, tempfile::tempdir().unwrap(), small, large)
}

fn remote(hub: &FakeHub) -> Remote {
    Remote::at(&hub.url, None, Patience::default()).unwrap()
}

#[tokio::test]
async fn headers_are_read_by_ranges_and_the_weights_are_a_hole() {
    let (hub, store, small, large) = hub();
    let wish = Wish::new("Org/Model", None).unwrap();
    let outline = RemoteOutline::read(&remote(&hub), store.path(), &wish).await.unwrap();
    assert_eq!(outline.wanted.len(), 4);
    assert_eq!(outline.bytes(), 8 + small.len() as u64 + large.len() as u64 + 90_000);
    for (name, whole, data) in [
        ("model-00001-of-00002.safetensors", &small, 4_000_000),
        ("model-00002-of-00002.safetensors", &large, 400),
    ] {
        let kept = fs::read(outline.folder.join(name)).unwrap();
        let header = whole.len() - data;
        assert_eq!(kept.len(), whole.len(), "{name}");
        assert!(kept[..header] == whole[..header] && kept[header..].iter().all(|byte| *byte == 0), "{name}");
    }
    let meta = fs::metadata(outline.folder.join("model-00001-of-00002.safetensors")).unwrap();
    assert!(meta.blocks() * 512 < 1_000_000, "a hole takes no room");
    let asked: u64 =
        hub.log().iter().filter(|a| a.door == Door::Cdn).filter_map(|a| a.range).map(|(a, b)| b - a).sum();
    assert!(asked < 1_300_000, "{asked} bytes were read");

    // Known from now on without the network, and not read twice.
    hub.forget_log();
    assert_eq!(RemoteOutline::known(store.path(), "Org/Model", None).unwrap().listing, outline.listing);
    RemoteOutline::read(&remote(&hub), store.path(), &wish).await.unwrap();
    assert_eq!(hub.log().len(), 1, "only the listing is asked for");
    assert!(RemoteOutline::known(store.path(), "Org/Other", None).is_none());
}

#[tokio::test]
async fn a_new_commit_is_read_anew_and_an_interrupted_reading_is_not_believed() {
    let (hub, store, ..) = hub();
    let wish = Wish::new("Org/Model", None).unwrap();
    RemoteOutline::read(&remote(&hub), store.path(), &wish).await.unwrap();
    hub.commit(
        "Org/Model",
        'b',
        &[("config.json", b"{\"a\": 2}".to_vec(), false), ("model.safetensors", safetensors(40, 0), true)],
    );
    hub.trick(|asked| {
        (asked.door == Door::Cdn)
            .then_some(Trick::Status(404, vec![("x-error-code", "EntryNotFound".into())]))
    });
    assert!(RemoteOutline::read(&remote(&hub), store.path(), &wish).await.is_err());
    assert_eq!(RemoteOutline::known(store.path(), "Org/Model", None).unwrap().listing.commit, "a".repeat(40));
    hub.behave();
    let outline = RemoteOutline::read(&remote(&hub), store.path(), &wish).await.unwrap();
    assert_eq!(fs::read(outline.folder.join("config.json")).unwrap(), b"{\"a\": 2}");
    assert!(!outline.folder.join("model-00001-of-00002.safetensors").exists());
}

#[tokio::test]
async fn what_is_no_safetensors_file_is_refused() {
    let (hub, store, ..) = hub();
    for (commit, bytes) in
        [('c', b"PK\x03\x04 this is something else".to_vec()), ('d', vec![1]), ('e', vec![255; 40])]
    {
        hub.commit(
            "Org/Model",
            commit,
            &[("config.json", b"{}".to_vec(), false), ("model.safetensors", bytes, true)],
        );
        let wish = Wish::new("Org/Model", None).unwrap();
        let error = RemoteOutline::read(&remote(&hub), store.path(), &wish).await.unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

/// A GGUF file of one tensor, with a text of `filler` bytes in its header, which makes it so long.
fn gguf(filler: usize, data: usize) -> (Vec<u8>, usize) {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let header = [
        b"GGUF\x03\0\0\0".to_vec(),
        [1u64.to_le_bytes(), 1u64.to_le_bytes()].concat(),
        [text("a.text"), 8u32.to_le_bytes().to_vec(), text(&"x".repeat(filler))].concat(),
        [text("w"), 1u32.to_le_bytes().to_vec(), 4u64.to_le_bytes().to_vec(), vec![0; 12]].concat(),
    ]
    .concat();
    let length = header.len();
    (header.into_iter().chain(std::iter::repeat_n(7, data)).collect(), length)
}

#[tokio::test]
async fn of_a_gguf_the_header_is_read_however_long_it_is_and_the_rest_is_a_hole() {
    let (hub, store) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let (short, short_header) = gguf(10, 3_000_000);
    let (long, long_header) = gguf(6_000_000, 5_000_000);
    hub.commit(
        "Org/Files",
        'a',
        &[
            ("m-Q4.gguf", short.clone(), true),
            ("m-Q8-00001-of-00002.gguf", long.clone(), true),
            ("m-Q8-00002-of-00002.gguf", short.clone(), true),
            ("broken.gguf", b"GGUF\x07\0\0\0 and more".to_vec(), true),
        ],
    );
    let wish = |file: &str| Wish::new("Org/Files", None).unwrap().of_file(Some(file.into()));
    let outline = RemoteOutline::read(&remote(&hub), store.path(), &wish("m-Q4.gguf")).await.unwrap();
    assert_eq!((outline.wanted.len(), outline.bytes()), (1, short.len() as u64));
    let kept = fs::read(outline.path()).unwrap();
    assert!(kept.len() == short.len() && kept[..short_header] == short[..short_header]);
    assert!(kept[short_header..].iter().all(|byte| *byte == 0));

    hub.forget_log();
    let set =
        RemoteOutline::read(&remote(&hub), store.path(), &wish("m-Q8-00001-of-00002.gguf")).await.unwrap();
    assert_eq!((set.wanted.len(), set.bytes()), (2, (long.len() + short.len()) as u64));
    let kept = fs::read(set.path()).unwrap();
    assert!(kept[..long_header] == long[..long_header] && kept[long_header..].iter().all(|byte| *byte == 0));
    assert!(set.folder.join("m-Q8-00002-of-00002.gguf").exists());
    // Each by its own name, and without the network.
    for (file, first) in
        [("m-Q4.gguf", "m-Q4.gguf"), ("m-Q8-00001-of-00002.gguf", "m-Q8-00001-of-00002.gguf")]
    {
        let known = RemoteOutline::known(store.path(), "Org/Files", Some(file)).unwrap();
        assert_eq!(known.path().file_name().unwrap().to_str(), Some(first));
    }
    assert!(RemoteOutline::known(store.path(), "Org/Files", None).is_none());
    let error = RemoteOutline::read(&remote(&hub), store.path(), &wish("broken.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("version 7"), "{error}");
}
