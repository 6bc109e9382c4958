//! The disk tier over a runner that knows whose keys, values and states are where, and over real models: what comes back is
//! what went, and no answer depends on it.

use std::{fs, path::Path};

use crate::{
    Depth, Event, Request, Sampling,
    depth::MOST,
    disk::file::ENDING,
    oracle::{LIMITS, Oracle},
    rig::{Bench, bench_of, fixture, model, read, request},
    runner::{Limits, Runner},
    status::PrefixDisk,
};

const PLENTY: u64 = 1 << 30;

/// Pages of four positions. A state is written where 16 pages were read before it.
const ROOMY: Limits =
    Limits { context: 256, states: 3 * (1 + MOST) + 12, max_rows: 32, pages: 192, mtp: true, ..LIMITS };

fn oracle(limits: Limits) -> Bench<Oracle> {
    bench_of(Oracle { limits, ..Oracle::default() }, Depth::Fixed(2), 64)
}

fn text(len: u32, from: u32) -> Vec<u32> {
    (0..len).map(|i| (from + 7 * i) % 240 + 10).collect()
}

/// Runs one request to its end: its tokens and how many of its prompt were known.
fn ask<R: Runner>(bench: &mut Bench<R>, prompt: &[u32], tokens: usize) -> (Vec<u32>, usize) {
    let events = bench.put(Request { ignore_end: true, ..request(prompt, tokens) });
    bench.run_dry();
    let (ids, _, end) = read(events);
    match end {
        Some(Event::Done { usage, .. }) => (ids, usage.cached),
        other => panic!("{other:?}"),
    }
}

fn told<R: Runner>(bench: &Bench<R>) -> PrefixDisk {
    bench.board.lock().prefix_disk.clone().expect("there is a disk tier")
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == ENDING)).collect()
}

#[test]
fn a_text_that_memory_forgot_is_read_back_and_so_is_one_of_an_engine_that_has_ended() {
    let home = tempfile::tempdir().expect("a folder");
    let prompt = text(50, 3);
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    let first = ask(&mut bench, &prompt, 5);
    assert_eq!((first.1, told(&bench).files), (0, 1));
    bench.worker.forget();
    assert_eq!(bench.worker.prefixes.pages(), 0);
    // 52 positions were computed: 13 pages.
    assert_eq!(ask(&mut bench, &[&prompt[..], &first.0, &[9]].concat(), 5).1, 52);
    assert_eq!(told(&bench).restored_tokens, 52);
    drop(bench);
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    assert_eq!(ask(&mut bench, &[&prompt[..], &first.0, &[8]].concat(), 5).1, 52);
    assert_eq!((told(&bench).restored_tokens, told(&bench).discarded), (52, 0));
}

#[test]
fn a_longer_text_is_written_behind_the_shorter_one_and_read_with_it() {
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    let mut conversation = text(40, 0);
    for turn in 0..3 {
        let answer = ask(&mut bench, &conversation, 10).0;
        conversation.extend(answer);
        conversation.extend(text(20, turn));
    }
    let told_first = told(&bench);
    assert_eq!(told_first.files, 3);
    assert_eq!(told_first.saved_tokens, 40 + 10 + 20 + 10 + 20 + 8, "each token once");
    drop(bench);
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    assert_eq!(ask(&mut bench, &conversation, 3).1, 108);
    // A text that leaves the path earlier starts from where an earlier turn ended.
    bench.worker.forget();
    assert_eq!(ask(&mut bench, &[&conversation[..80], &text(9, 77)].concat(), 3).1, 76);
}

#[test]
fn several_requests_with_one_text_read_it_once_and_others_go_on_meanwhile() {
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    let prompt = text(100, 3);
    ask(&mut bench, &prompt, 2);
    bench.worker.forget();
    let prompts = [[&prompt[..], &[15]].concat(), text(30, 90), [&prompt[..], &[16, 16]].concat()];
    let events: Vec<_> = prompts.iter().map(|prompt| bench.put(request(prompt, 4))).collect();
    bench.run_dry();
    for (prompt, events) in prompts.iter().zip(events) {
        let last = prompt[prompt.len() - 1];
        assert_eq!(read(events).0, (1..=4).map(|i| (last + i) % 250).collect::<Vec<_>>());
    }
    assert_eq!(told(&bench).restored_tokens, 96, "the last whole page of the prompt");
}

#[test]
fn a_damaged_file_is_removed_and_its_text_computed_again() {
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    let prompt = text(80, 3);
    let first = ask(&mut bench, &prompt, 5).0;
    bench.worker.forget();
    // The state at the end of the prompt; the answer is too short for a file of its own.
    assert_eq!((files(home.path()).len(), told(&bench).files), (1, 1));
    for file in files(home.path()) {
        let mut bytes = fs::read(&file).expect("it is there");
        let at = bytes.len() - 30;
        bytes[at] ^= 1;
        fs::write(&file, bytes).expect("writable");
    }
    assert_eq!(ask(&mut bench, &prompt, 5), (first.clone(), 0));
    assert_eq!((told(&bench).discarded, told(&bench).restored_tokens), (1, 0));
    bench.worker.forget();
    assert_eq!(ask(&mut bench, &prompt, 5), (first, 76), "it was written again");
}

#[test]
fn files_of_another_model_are_not_used_and_gone() {
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    let prompt = text(50, 3);
    ask(&mut bench, &prompt, 5);
    drop(bench);
    // Pages of another size: another kind of cache.
    let mut bench = oracle(Limits { page_len: 8, pages: 96, ..ROOMY }).with_disk(home.path(), PLENTY);
    bench.step();
    assert_eq!((told(&bench).discarded, told(&bench).files), (1, 0));
    assert_eq!(ask(&mut bench, &prompt, 5).1, 0);
}

#[test]
fn the_budget_is_kept_and_what_was_used_longest_ago_goes() {
    let home = tempfile::tempdir().expect("a folder");
    // A file of 13 pages with its state takes some 2,000 bytes.
    let mut bench = oracle(ROOMY).with_disk(home.path(), 6000);
    let answers: Vec<Vec<u32>> = (0..8)
        .map(|topic| {
            let answer = ask(&mut bench, &text(50, 30 * topic), 5).0;
            let on_disk: u64 =
                files(home.path()).iter().map(|file| file.metadata().expect("there").len()).sum();
            assert!(on_disk <= 6000 && told(&bench).used <= 6000.0, "{on_disk}");
            answer
        })
        .collect();
    let kept = told(&bench).files;
    assert!((2..8).contains(&kept), "{kept}");
    bench.worker.forget();
    let mut known = |topic: u32| {
        let text = [text(50, 30 * topic), answers[topic as usize].clone()].concat();
        ask(&mut bench, &text, 1).1
    };
    assert_eq!((known(7), known(6), known(0)), (52, 52, 0));
}

#[test]
fn one_folder_serves_one_engine() {
    let home = tempfile::tempdir().expect("a folder");
    let first = oracle(ROOMY).with_disk(home.path(), PLENTY);
    let mut second = oracle(ROOMY);
    let request = crate::DiskRequest { folder: home.path().to_owned(), budget: PLENTY };
    second.worker.open_disk(&request, "a model".into());
    assert!(second.worker.disk.is_none());
    drop(first);
    second.worker.open_disk(&request, "a model".into());
    assert!(second.worker.disk.is_some());
}

#[test]
fn a_folder_that_cannot_be_written_to_any_more_ends_the_writing_and_no_answer() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("prefixes");
    let mut bench = oracle(ROOMY).with_disk(&folder, PLENTY);
    fs::remove_dir_all(&folder).expect("removable");
    assert_eq!(ask(&mut bench, &text(50, 3), 5).0.len(), 5);
    let off = told(&bench).off.expect("it says so");
    assert_eq!(off.code, "prefix_disk_failed");
    assert_eq!(ask(&mut bench, &text(50, 9), 5).0.len(), 5);
}

#[test]
fn an_engine_that_ends_writes_what_is_worth_it() {
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY);
    let request = crate::DiskRequest { folder: home.path().to_owned(), budget: PLENTY };
    bench.worker.open_disk(&request, "a model".into());
    let prompt = text(80, 3);
    ask(&mut bench, &prompt, 5);
    assert_eq!(files(home.path()).len(), 0, "it has not rested long");
    bench.queue.drain();
    assert_eq!(bench.worker.run(), None);
    assert_eq!(files(home.path()).len(), 1);
    drop(bench);
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    assert_eq!(ask(&mut bench, &[&prompt[..], &[1]].concat(), 5).1, 76);
}

#[test]
fn what_memory_is_about_to_push_out_is_written_while_others_run() {
    let home = tempfile::tempdir().expect("a folder");
    let limits = Limits { context: 128, pages: 96, states: 12, ..ROOMY };
    let mut bench = oracle(limits);
    let request = crate::DiskRequest { folder: home.path().to_owned(), budget: PLENTY };
    bench.worker.open_disk(&request, "a model".into());
    for topic in 0..12 {
        ask(&mut bench, &text(80, 19 * topic), 6);
        // The clerk's thread has its time.
        std::thread::sleep(std::time::Duration::from_millis(5));
        bench.step();
    }
    let saved = told(&bench);
    assert!(saved.files >= 4, "{saved:?}");
    let known: Vec<usize> = (0..12).map(|topic| ask(&mut bench, &text(80, 19 * topic), 1).1).collect();
    assert!(known.iter().filter(|known| **known == 76).count() >= 6, "{known:?}");
    assert!(told(&bench).restored_tokens > 0);
}

/// Two turns of a conversation with a real model: the tokens of both answers, and how much of the prompts was known.
fn converse<R: Runner>(bench: &mut Bench<R>, temperature: f32) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut ids: Vec<u32> = (0..280).map(|i| (i * i * 3 + 17 * i) % 250).collect();
    let (mut answers, mut known) = (Vec::new(), Vec::new());
    for turn in 0..2u32 {
        let sampling = Sampling { temperature, seed: u64::from(turn), ..Sampling::default() };
        let events = bench.put(Request { ignore_end: true, sampling, ..request(&ids, 20) });
        bench.run_dry();
        let (answer, _, end) = read(events);
        let Some(Event::Done { usage, .. }) = end else { panic!("{end:?}") };
        known.push(usage.cached);
        ids.extend(&answer);
        ids.extend((0..25).map(|i| (i * 3 + turn) % 250));
        answers.push(answer);
    }
    (answers, known)
}

#[test]
fn cold_warm_evicted_to_disk_aborted_and_restarted_runs_write_the_same_tokens() {
    for family in ["qwen3_5_moe", "qwen3_5"] {
        let checkpoint = fixture(family);
        for temperature in [0.0, 0.9] {
            let mut cold = bench_of(model(&checkpoint), Depth::Fixed(0), 8);
            let expected = converse(&mut cold, temperature).0;
            let home = tempfile::tempdir().expect("a folder");
            let start = || bench_of(model(&checkpoint), Depth::Fixed(2), 8).with_disk(home.path(), PLENTY);
            let mut bench = start();
            let (answers, known) = converse(&mut bench, temperature);
            assert_eq!((answers, known), (expected.clone(), vec![0, 256]), "{family}, the first time");
            assert_eq!(converse(&mut bench, temperature).0, expected, "{family}, warm");
            bench.worker.forget();
            let (answers, known) = converse(&mut bench, temperature);
            assert_eq!(answers, expected, "{family}, from disk");
            assert!(known[0] >= 256 && known[1] >= 256, "{known:?}");
            assert!(told(&bench).restored_tokens >= 256);
            // Cut off while it is read from disk, and while the rest is computed.
            for steps in [1, 3] {
                bench.worker.forget();
                let prompt: Vec<u32> = (0..280).map(|i| (i * i * 3 + 17 * i) % 250).collect();
                let cut = bench.put(request(&prompt, 20));
                (0..steps).for_each(|_| _ = bench.step());
                drop(cut);
                assert_eq!(converse(&mut bench, temperature).0, expected, "{family}, after an abort");
            }
            drop(bench);
            let mut bench = start();
            let (answers, known) = converse(&mut bench, temperature);
            assert_eq!(answers, expected, "{family}, after a restart");
            assert!(known[0] >= 256, "{known:?}");
        }
    }
}

#[test]
fn answers_are_read_as_they_were_sampled_by_the_engine_that_starts_after_this_one() {
    // 12 means the bytes of 1 and 2; 9 is special.
    fn bytes(id: u32) -> &'static [u8] {
        match id {
            1 => b"a",
            2 => b"b",
            12 => b"ab",
            _ => b"",
        }
    }
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    bench.board.replay.remember(vec![9, 1, 9, 1, 2, 9], 3);
    ask(&mut bench, &text(20, 3), 5);
    let said = bench.board.replay.all();
    assert_eq!(said.len(), 2);
    let used = told(&bench).used;
    drop(bench);
    let bench = oracle(ROOMY).with_disk(home.path(), PLENTY);
    assert_eq!(bench.board.replay.all(), said);
    assert_eq!(bench.board.replay.apply(vec![9, 1, 9, 12, 9], bytes, None), [9, 1, 9, 1, 2, 9]);
    bench.worker.disk.as_ref().map(|disk| assert_eq!(disk.describe().used, used)).expect("there is one");
    drop(bench);
    // Another model's are none of its business.
    let mut other = oracle(ROOMY);
    let request = crate::DiskRequest { folder: home.path().to_owned(), budget: PLENTY };
    other.worker.open_disk(&request, "another model".into());
    assert_eq!(other.board.replay.all(), []);
}

#[test]
fn answers_take_a_share_of_the_budget_and_no_more() {
    let home = tempfile::tempdir().expect("a folder");
    let mut bench = oracle(ROOMY).with_disk(home.path(), 8000);
    for i in 0..50 {
        bench.board.replay.remember(vec![i; 40], 20);
    }
    ask(&mut bench, &text(20, 3), 5);
    let size = fs::metadata(home.path().join("answers.hearthsaid")).expect("some fit").len();
    assert!((600..=1000).contains(&size), "{size}");
    let whole: u64 = fs::read_dir(home.path())
        .expect("a folder")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("readable").len())
        .sum();
    assert!(told(&bench).used == whole as f64 && whole <= 8000, "{whole}, {}", told(&bench).used);
    drop(bench);
    let bench = oracle(ROOMY).with_disk(home.path(), 8000);
    let kept = bench.board.replay.all();
    assert!(kept.len() > 2 && kept[kept.len() - 1].ids[..3] == text(20, 3)[..3], "the latest");
}
