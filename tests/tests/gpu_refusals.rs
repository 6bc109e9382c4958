//! Machines whose GPU cannot be used, as a person meets them: the real program over a stand-in for NVIDIA's library
//! (kernels/tests/driver/libcuda.c), its exit code, its words, and what the appliance says. The stand-in computes nothing, which
//! the self-test notices; where a load has to come further, the machine is told that it passed.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hearth_tests::house::{House, Plot};
use serde_json::{Value, json};

/// The folder of the stand-in, compiled once.
fn stand_in() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libcuda");
        fs::create_dir_all(&folder).expect("cargo's folder for tests can be written");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.join("libcuda.so"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels/tests/driver/libcuda.c"))
            .output()
            .expect("a C compiler is there: the linker of Rust is one");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        folder
    })
}

/// A machine whose GPU is as `case` says.
fn machine(plot: &Plot, case: &str, args: &[&str]) -> Command {
    let mut command = plot.command(&args.iter().map(std::ffi::OsStr::new).collect::<Vec<_>>());
    command.env("LD_LIBRARY_PATH", stand_in()).env("FAKE_CUDA", case).env("FAKE_CUDA_QUIET", "1");
    command
}

/// What `hearth serve --device cuda ARGS` ends with.
#[derive(Clone)]
struct Refusal {
    code: Option<i32>,
    /// The error for programs.
    error: Value,
    /// What a person reads.
    words: String,
}

fn refusal(output: &Output) -> Refusal {
    let said = String::from_utf8_lossy(&output.stdout);
    let error = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line.get("error").filter(|error| error.is_object()).cloned());
    Refusal {
        code: output.status.code(),
        error: error.unwrap_or_else(|| panic!("no error in {output:?}")),
        words: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn serve(plot: &Plot, case: &str, more: &[&str]) -> Refusal {
    let args = [&["serve", "ember", "--device", "cuda", "--json", "--port", "0"], more].concat();
    refusal(&machine(plot, case, &args).output().expect("hearth runs"))
}

/// Whether the build has GPU code; one without says so whatever the machine is.
fn has_code(plot: &Plot) -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let Refusal { error, .. } = serve(plot, "no-device", &[]);
        !error["message"].as_str().unwrap_or_default().contains("no GPU code")
    })
}

/// How the self-test that fails on the stand-in names the GPU; run once for each.
fn failed_selftest(case: &'static str) -> Refusal {
    static KNOWN: Mutex<Vec<(&str, Refusal)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, refusal)) = known.iter().find(|(name, _)| *name == case) {
        return refusal.clone();
    }
    let refusal = serve(&Plot::new(), case, &[]);
    known.push((case, refusal.clone()));
    refusal
}

/// Lets the machine remember that its GPU passed the self-test.
fn passed_before(plot: &Plot, case: &'static str) {
    let failed = failed_selftest(case);
    assert_eq!(failed.error["code"], "device_selftest_failed", "{}", failed.words);
    let message = failed.error["message"].as_str().expect("a sentence");
    let identity = message.split(" fails ").next().expect("the device comes first");
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    let folder = plot.root().join("state/hearth/selftest");
    fs::create_dir_all(&folder).expect("the folder can be made");
    let mark = folder.join(format!("{}-{:016x}.json", env!("CARGO_PKG_VERSION"), hasher.finish()));
    fs::write(mark, json!({ "device": identity, "passed": true }).to_string())
        .expect("the file can be written");
}

#[test]
fn each_unfit_driver_and_gpu_ends_the_engine_with_3_and_the_reason_in_words() {
    let plot = Plot::new();
    if !has_code(&plot) {
        // Said before anybody looks for a driver.
        let Refusal { code, error, words } = serve(&plot, "old", &[]);
        assert_eq!((code, &error["code"]), (Some(3), &json!("device_unavailable")));
        assert!(
            words.contains("nvcc 13.0 or newer was not found") || words.contains("HEARTH_NVCC=none"),
            "{words}"
        );
        assert!(words.contains("Build it again, or run on the CPU with --device cpu."), "{words}");
        return;
    }
    for (case, wanted) in [
        ("old", "(CUDA 12.8) is too old: Hearth needs CUDA 13.0, which is driver 580 or newer"),
        ("no-device", "finds no GPU"),
        ("mismatch", "does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"),
        ("unsupported", "no kernels for this GPU: Stand-in 4090 (8.9). Supported are the GB10"),
    ] {
        let Refusal { code, error, words } = serve(&plot, case, &[]);
        assert_eq!((code, &error["code"]), (Some(3), &json!("device_unavailable")), "{case}: {words}");
        assert!(words.contains(wanted) && words.contains("--device cpu"), "{case}: {words}");
        assert!(
            !error["message"].as_str().is_some_and(|text| text.contains("--device")),
            "said once: {error}"
        );
    }
}

#[test]
fn a_gpu_that_computes_otherwise_than_the_cpu_is_refused_by_name_and_not_used_by_default() {
    let plot = Plot::new();
    if !has_code(&plot) {
        return;
    }
    let Refusal { code, error, words } = failed_selftest("h200");
    assert_eq!((code, &error["code"]), (Some(3), &json!("device_selftest_failed")), "{words}");
    assert!(words.contains("Stand-in H200 (9.0)") && words.contains("against the CPU"), "{words}");
    assert!(
        words.contains("linear") && words.contains("attend_paged"),
        "every op that failed is named: {words}"
    );
}

#[test]
fn a_gpu_with_too_little_memory_is_refused_with_every_use_of_it() {
    let plot = Plot::new();
    if !has_code(&plot) {
        return;
    }
    passed_before(&plot, "h200");
    // 1 GiB is free, which is what is left to others.
    let Refusal { code, error, words } = serve(&plot, "h200", &["--context", "4096"]);
    assert_eq!((code, &error["code"]), (Some(3), &json!("model_does_not_fit")), "{words}");
    let message = error["message"].as_str().expect("a sentence");
    assert!(message.contains("and 0 MiB are free for it") && !message.contains('\n'), "{message}");
    let table = error["evidence"].as_str().expect("a table");
    for line in [
        "weights",
        "keys and values",
        "activations and logits",
        "recorded graphs",
        "planned",
        "left to everything else",
        "available",
        "1024.0 MiB",
    ] {
        assert!(table.contains(line) && words.contains(line), "{line} is missing in: {words}");
    }
    assert!(words.contains("Lower the context or the number of requests"), "{words}");
}

#[test]
fn a_spark_plans_with_the_hosts_memory_whatever_the_driver_says_of_its_own() {
    let plot = Plot::new();
    if !has_code(&plot) {
        return;
    }
    passed_before(&plot, "spark");
    // By the driver one mebibyte is free; the host has more, and that is what counts.
    let house = house(&plot, "spark", 1);
    house.wait_for("serving");
    assert!(!on_the_cpu(&house), "{}", house.log());
    drop(house);
    let Refusal { code, error, words } =
        serve(&plot, "spark", &["--context", "2048", "--memory-reserve", "100000"]);
    assert_eq!((code, &error["code"]), (Some(3), &json!("model_does_not_fit")), "{words}");
    let table = error["evidence"].as_str().expect("a table");
    assert!(table.contains("102400000.0 MiB"), "what is left to others: {table}");
    assert!(table.contains("buffers for reading"), "files pass through the same memory: {table}");
}

#[test]
fn memory_that_another_program_takes_after_it_was_counted_is_a_refusal_that_says_so() {
    let plot = Plot::new();
    if !has_code(&plot) {
        return;
    }
    passed_before(&plot, "h200");
    let after = |case: &str| {
        let mut command = machine(
            &plot,
            case,
            &["serve", "ember", "--device", "cuda", "--json", "--port", "0", "--context", "2048"],
        );
        refusal(&command.env("FAKE_CUDA_FREE", "8192").output().expect("hearth runs"))
    };
    let Refusal { code, error, words } = after("h200,taken");
    assert_eq!((code, &error["code"]), (Some(3), &json!("memory_plan_failed")), "{words}");
    let message = error["message"].as_str().expect("a sentence");
    assert!(
        message.contains("8192.0 MiB were free when the memory was planned and 64.0 MiB are free now"),
        "{message}"
    );
    assert!(message.contains("another program has taken some") && !message.contains('\n'), "{message}");
    let table = error["evidence"].as_str().expect("a table");
    for line in ["weights", "planned", "available when planned", "8192.0 MiB", "64.0 MiB"] {
        assert!(table.contains(line), "{line} is missing in: {table}");
    }
    assert!(words.contains("Close other programs that use this memory"), "{words}");
    // Counted as free, and not given.
    let Refusal { code, error, words } = after("h200,crowded");
    assert_eq!((code, &error["code"]), (Some(3), &json!("memory_plan_failed")), "{words}");
    assert!(words.contains("could not be had in one piece; another program may have taken it"), "{words}");
    // The block is there, and then the driver has none left for what it keeps itself.
    let Refusal { code, error, words } = after("h200,no-graphs");
    assert_eq!((code, &error["code"]), (Some(4), &json!("device_out_of_memory")), "{words}");
    assert!(words.contains("The GPU has run out of memory.") && words.contains("recorded graph"), "{words}");
}

/// An appliance on such a machine.
fn house<'a>(plot: &'a Plot, case: &str, mebibytes: u32) -> House<'a> {
    plot.up_on(&["--start"], &mut |command| {
        command.env("LD_LIBRARY_PATH", stand_in()).env("FAKE_CUDA", case).env("FAKE_CUDA_QUIET", "1");
        command.env("FAKE_CUDA_FREE", mebibytes.to_string());
    })
}

/// Whether the engine said that it computes on the CPU though it was left free to take the GPU.
fn on_the_cpu(house: &House<'_>) -> bool {
    house.log().to_lowercase().contains("computing on the cpu")
}

#[test]
fn an_appliance_that_cannot_use_the_gpu_serves_on_the_cpu_and_says_why() {
    let plot = Plot::new();
    let cases = if has_code(&plot) {
        vec![
            ("old", "gpu_not_used", "Hearth needs CUDA 13.0, which is driver 580 or newer"),
            ("unsupported", "gpu_not_used", "Supported are the GB10 of the DGX Spark"),
        ]
    } else {
        vec![("h200", "gpu_not_used", "this build of Hearth has no GPU code")]
    };
    for (case, code, wanted) in cases {
        let house = house(&plot, case, 1024);
        let serving = house.wait_for("serving");
        assert!(on_the_cpu(&house), "{case}: {}", house.log());
        let notices = serving["notices"].as_array().expect("a list");
        let notice = notices.iter().find(|notice| notice["code"] == code);
        let notice = notice.unwrap_or_else(|| panic!("{case}: no {code} in {notices:?}"));
        assert!(notice["text"].as_str().is_some_and(|text| text.contains(wanted)), "{case}: {notice}");
        assert_eq!(house.chat(4, false).status, 200, "{case}");
    }
    // Where nobody expects a GPU there is nothing to say.
    let house = plot.up(&["--start"]);
    let serving = house.wait_for("serving");
    // A machine with a GPU of its own may have something to say about that one.
    if !Path::new("/proc/driver/nvidia/version").exists() {
        assert!(!serving["notices"].to_string().contains("gpu_not_used"), "{}", serving["notices"]);
    }
}

#[test]
fn an_appliance_whose_gpu_is_too_small_shows_the_engines_sentence_and_its_table() {
    let plot = Plot::new();
    if !has_code(&plot) {
        return;
    }
    passed_before(&plot, "h200");
    let house = house(&plot, "h200", 1024);
    let failed = house.wait_for("error");
    let fault = &failed["state"]["fault"];
    assert_eq!(fault["code"], "model_does_not_fit", "{fault}\n{}", house.log());
    assert!(fault["message"].as_str().is_some_and(|text| text.contains("0 MiB are free for it")), "{fault}");
    let table = fault["evidence"].as_str().expect("a table");
    assert!(table.contains("keys and values") && table.contains("planned"), "{table}");
    assert_eq!(house.chat(4, false).status, 503, "the port answers");
}

#[test]
fn graphs_that_take_more_of_the_gpu_than_was_planned_are_told() {
    let plot = Plot::new();
    if !has_code(&plot) {
        return;
    }
    passed_before(&plot, "h200");
    // The appliance tells an engine's notices at its next look at it.
    let told = |case: &str, awaited: &str| {
        let house = house(&plot, case, 16_384);
        house.wait_for("serving");
        assert!(!on_the_cpu(&house), "{}", house.log());
        let start = Instant::now();
        loop {
            let notices = house.state()["notices"].to_string();
            if notices.contains(awaited) {
                return notices;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{awaited} in {notices}\n{}", house.log());
            thread::sleep(Duration::from_millis(50));
        }
    };
    // Some hundred graphs of 8 MiB each.
    told("h200,heavy-graphs", "graphs_over_plan");
    // The stand-in computes nothing, so it does without the kernels that it could choose, and says so.
    assert!(!told("h200", "optional_kernels_failed").contains("graphs_over_plan"));
}
