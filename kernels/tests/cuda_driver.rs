//! The driver of the real GPU: what it says on a machine that has none, and, over a stand-in for NVIDIA's library
//! (driver/libcuda.c), what it says of each way in which a machine can be unfit, and that copies, graphs, launches and the
//! end keep the library's rules. No GPU takes part; what a GPU computes is not tested here.
//!
//! The library is loaded once per process, so each case runs this program again, with one ignored test.

use hearth_kernels::cuda::Cuda;
use hearth_kernels::direct::DirectFile;
use hearth_kernels::ops::{Pass, Segment, Stretch};
use hearth_kernels::sample::{Chosen, SampleRow};
use hearth_kernels::{DType, OpError, Ops};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the build has GPU code; without it `Cuda::open` says so before it looks for a driver.
const HAS_CODE: bool = option_env!("HEARTH_NVCC_USED").is_some();

/// The folder of the stand-in, compiled once per test.
fn stand_in(case: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libcuda-{case}"));
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests can be written");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(folder.join("libcuda.so"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/driver/libcuda.c"))
        .output()
        .expect("a C compiler is there: the linker of Rust is one");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    folder
}

/// What the ignored test `child` prints over a stand-in that misbehaves as `case` says.
fn with(case: &str, child: &str) -> String {
    let ran = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--ignored", "--exact", child, "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", stand_in(&format!("{case}-{child}")))
        .env("FAKE_CUDA", case)
        .output()
        .expect("this program can be started again");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    said
}

#[test]
#[ignore = "the others run it over a stand-in"]
fn open() {
    match Cuda::open() {
        Ok(cuda) => println!("opened {:?}", cuda.properties()),
        Err(error @ OpError::Unavailable { .. }) => println!("unavailable: {error}"),
        Err(error) => println!("failed: {error}"),
    }
}

#[test]
fn a_machine_without_the_driver_is_told_what_to_install_and_to_use_the_cpu() {
    match Cuda::open() {
        Err(OpError::Unavailable { remedy, .. }) => {
            assert!(remedy.contains("on the CPU with --device cpu"), "{remedy}")
        }
        Err(other) => panic!("{other}"),
        Ok(cuda) => println!("there is a GPU: {:?}", cuda.properties()),
    }
}

#[test]
fn a_driver_that_is_too_old_is_named_with_the_version_needed() {
    let said = with("old", "open");
    let wanted = if HAS_CODE {
        "(CUDA 12.8) is too old: Hearth needs CUDA 13.0, which is driver 580"
    } else {
        "no GPU code"
    };
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn each_unfit_machine_gets_its_own_reason() {
    if !HAS_CODE {
        return;
    }
    for (case, wanted) in [
        ("no-device", "finds no GPU"),
        ("unsupported", "no kernels for this GPU: Stand-in 4090 (8.9). Supported are the GB10"),
        (
            "mismatch",
            "does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803). After an update of the driver, restart",
        ),
    ] {
        let said = with(case, "open");
        assert!(said.contains("unavailable: ") && said.contains(wanted), "{case}: {said}");
    }
}

#[test]
fn the_supported_gpu_with_the_most_memory_is_opened() {
    if !HAS_CODE {
        return;
    }
    let said = with("ok", "open");
    assert!(said.contains("Stand-in GB10") && said.contains("capability: (12, 1)"), "{said}");
    assert!(said.contains("integrated: true") && said.contains("shared: 101376"), "{said}");
    assert!(with("two", "open").contains("Stand-in H200"));
}

#[test]
#[ignore = "the others run it over a stand-in"]
fn copies() {
    let cuda = Cuda::open().expect("the stand-in opens");
    // Small ones in a row, then some that fill both slots of pinned memory several times, with odd tails.
    let lengths = [1, 3, 700_001, 5, 1_048_576, 2_500_003, 17, 3_000_001];
    let value = |tensor: usize, i: usize| (tensor * 7919 + i) as f32;
    let mut tensors = Vec::new();
    for (tensor, &length) in lengths.iter().enumerate() {
        let mut bytes: Vec<u8> = (0..length).flat_map(|i| value(tensor, i).to_le_bytes()).collect();
        tensors.push(cuda.upload(DType::F32, &bytes, DType::F32, &[length, 1]).expect("it is uploaded"));
        // The source may be reused at once.
        bytes.fill(0xAA);
    }
    for (tensor, &length) in lengths.iter().enumerate() {
        let read = cuda.read_rows(&tensors[tensor], 0, length).expect("it is read");
        assert!(read.iter().enumerate().all(|(i, &x)| x == value(tensor, i)), "tensor {tensor}");
        let tail = cuda.read_rows(&tensors[tensor], length - 1, 1).expect("it is read");
        assert_eq!(tail, [value(tensor, length - 1)]);
    }
    // From a file, through two buffers of 32 MiB of which the first is used twice, from an odd place.
    let path = std::env::temp_dir().join(format!("hearth-driver-{}", std::process::id()));
    let rows = (70 << 20) / 4;
    let bytes: Vec<u8> =
        [0; 12].into_iter().chain((0..rows).flat_map(|i| value(9, i).to_le_bytes())).collect();
    std::fs::write(&path, &bytes).expect("the folder for temporary files can be written");
    let file = DirectFile::open(&path).expect("it is there");
    let streamed = cuda.upload_file(&file, 12, DType::F32, &[rows, 1]).expect("it is read");
    println!("direct: {}", file.is_direct());
    std::fs::remove_file(&path).expect("it was there");
    let read = cuda.read_rows(&streamed, 0, rows).expect("it is read");
    assert!(read.iter().enumerate().all(|(i, &x)| x == value(9, i)), "what came from the file");
    let zeros = cuda.zeros(DType::F32, &[1000, 3]).expect("there is memory");
    assert!(cuda.read_rows(&zeros, 0, 1000).expect("it is read").iter().all(|&x| x == 0.0));
    let refused = cuda.zeros(DType::F32, &[1 << 30]).expect_err("4 GiB are more than the stand-in has");
    assert_eq!(refused, OpError::OutOfMemory { device: "cuda", bytes: 4 << 30 });
    println!("done");
}

#[test]
fn bytes_copied_through_pinned_memory_arrive_though_the_device_is_late() {
    if HAS_CODE {
        let said = with("ok", "copies");
        assert!(said.contains("done"), "{said}");
        assert!(said.contains("released 0, 0 things held"), "something was not given back: {said}");
    }
}

#[test]
#[ignore = "the others run it over a stand-in"]
fn chosen() {
    let cuda = Cuda::open().expect("the stand-in opens");
    let mut logits = cuda.zeros(DType::F32, &[2, 40]).expect("there is memory");
    let row = SampleRow::default();
    let mut choose = || cuda.sample(&mut logits, 40, &[row, row]).expect("it starts");
    // More on their way at once than there were places for at the start, and one that nobody waits for.
    let mut all: Vec<Chosen> = (0..7).map(|_| choose()).collect();
    let unread = all.pop();
    let (first, others) = (all.remove(0), all);
    println!("waiting for the first");
    // The stand-in's kernels do nothing: what lies there is what the ring began with.
    assert_eq!(first.wait(), Ok(vec![Some(0), Some(0)]));
    println!("waited");
    drop(unread);
    for chosen in others {
        assert_eq!(chosen.wait(), Ok(vec![Some(0), Some(0)]));
    }
    // The places in pinned memory are used again.
    for _ in 0..20 {
        assert_eq!(choose().wait(), Ok(vec![Some(0), Some(0)]));
    }
    println!("done");
}

#[test]
fn chosen_tokens_come_back_without_waiting_for_what_was_started_after_them() {
    if !HAS_CODE {
        return;
    }
    let said = with("ok", "chosen");
    assert!(said.contains("done"), "{said}");
    let between = said.split("waiting for the first").nth(1).and_then(|rest| rest.split("waited").next());
    let ran: Vec<&str> =
        between.unwrap_or_default().lines().filter(|line| line.contains("fake: ran")).collect();
    assert!(ran.len() == 1 && !ran[0].ends_with(" 0 left"), "{said}");
    assert!(said.contains("released 0, 0 things held"), "something was not given back: {said}");
}

#[test]
#[ignore = "the others run it over a stand-in"]
fn graphs() {
    let cuda = Cuda::open().expect("the stand-in opens");
    let segment =
        Segment { slot: 0, first_row: 0, rows: 1, position: 0, pages: vec![0], snapshots: Vec::new() };
    let pass = Pass { segments: vec![segment], exact: false };
    let mut ran = 0;
    for _ in 0..3 {
        let body = &mut || {
            ran += 1;
            // In the recording (the second run) this is refused: it would be lost.
            if ran == 2 {
                let refused =
                    cuda.zeros(DType::F32, &[64]).expect_err("no allocation while a graph is recorded");
                println!("refused: {refused}");
            }
            Ok(())
        };
        cuda.replay(Stretch::Trunk, &pass, 1, body).expect("it runs");
    }
    assert_eq!(ran, 2);
    let bandwidth = cuda.measure_bandwidth().expect("it is measured").expect("a GPU has a clock");
    println!("bandwidth {bandwidth:?}");
}

#[test]
fn a_graph_is_recorded_once_uploaded_and_replayed_and_all_is_given_back() {
    if !HAS_CODE {
        return;
    }
    let said = with("ok", "graphs");
    assert!(
        said.contains("refused: cuda: recording: an allocation cannot be part of a recorded graph"),
        "{said}"
    );
    // The third run replays; the measurement of a launch uploads a graph of its own.
    assert_eq!(said.matches("fake: uploaded").count(), 2, "{said}");
    assert!(said.contains("fake: replayed"), "{said}");
    // Only a kernel after a kernel may start early: not the first, which comes after filling its buffers.
    let launches: Vec<&str> =
        said.lines().filter(|line| line.starts_with("fake: launched measure_read")).collect();
    assert_eq!(launches[0], "fake: launched measure_read grid 96 block 512 shared 0 pdl 0");
    // Then four in each measurement, the first after a mark in time.
    for four in launches[1..].chunks(4) {
        let early: Vec<bool> = four.iter().map(|line| line.ends_with("pdl 1")).collect();
        assert_eq!(early, [false, true, true, true]);
    }
    assert!(said.contains("released 0, 0 things held"), "something was not given back: {said}");
}

#[test]
fn a_fault_of_the_device_is_named_with_its_number() {
    if HAS_CODE {
        let said = with("illegal", "fault");
        assert!(said.contains("cuda: CUDA_ERROR_ILLEGAL_ADDRESS (700): waiting for the GPU"), "{said}");
    }
}

#[test]
#[ignore = "the others run it over a stand-in"]
fn fault() {
    let cuda = Cuda::open().expect("the stand-in opens");
    let zeros = cuda.zeros(DType::F32, &[4, 1]).expect("there is memory");
    println!("{}", cuda.read_rows(&zeros, 0, 4).expect_err("the stand-in reports a fault"));
}
