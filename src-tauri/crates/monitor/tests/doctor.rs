//! The doctor's checks over recorded machines: a healthy Spark (`recorded/spark.json`), and the same with one thing broken at a time.

use hearth_monitor::doctor::{Check, CheckState, Facts, Redactor, diagnose, report};
use serde_json::{Value, json};

const SPARK: &str = include_str!("recorded/spark.json");

/// The healthy Spark with some fields replaced.
fn spark(changes: Value) -> Facts {
    let mut facts: Value = serde_json::from_str(SPARK).expect("the recording is JSON");
    for (field, value) in changes.as_object().expect("fields") {
        assert!(facts.get(field).is_some() || field == "hub", "no field {field}");
        facts[field] = value.clone();
    }
    serde_json::from_value(facts).expect("the recording is of this shape")
}

fn check(facts: &Facts, code: &str) -> Check {
    diagnose(facts).into_iter().find(|check| check.code == code).unwrap_or_else(|| panic!("no check {code}"))
}

/// State and everything that a person can read of a check.
fn read(facts: &Facts, code: &str) -> (CheckState, String) {
    let check = check(facts, code);
    let fix = check.fix.unwrap_or_default();
    let said = [vec![check.finding], check.evidence, vec![fix.text]].concat();
    let said = said.iter().map(|said| said.text.clone()).chain(fix.commands);
    (check.state, said.collect::<Vec<_>>().join("\n"))
}

/// Checks the state and that every word is in what a person reads.
#[track_caller]
fn expect(facts: &Facts, code: &str, state: CheckState, words: &[&str]) {
    let (found, text) = read(facts, code);
    assert_eq!(found, state, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

/// Readings of a GB10 that works hard.
fn working(clock: f64, power: f64, heat: f64) -> Value {
    let reading = json!({ "name": "NVIDIA GB10", "driver": "580.95.05", "capability": [12, 1], "utilisation": 96.0,
        "power_w": power, "temperature_c": heat, "sm_clock_mhz": clock, "sm_clock_most_mhz": 3003.0, "held_by": [] });
    json!([reading, reading, reading])
}

fn without(field: &str, of: Value) -> Value {
    let strip = |mut value: Value| {
        value.as_object_mut().expect("a reading").remove(field);
        value
    };
    of.as_array().expect("readings").iter().cloned().map(strip).collect()
}

#[test]
fn a_healthy_spark_has_nothing_to_mend() {
    for check in diagnose(&spark(json!({}))) {
        let good = matches!(check.state, CheckState::Pass) || check.code == "hub";
        assert!(good, "{check:?}");
        assert!(check.finding.ends_with('.') && !check.title.is_empty(), "{check:?}");
    }
}

#[test]
fn every_check_says_what_to_do_when_it_fails_and_nothing_is_said_twice() {
    let broken = spark(json!({
        "module": null, "library": "not_loaded", "gpu": [], "modules": [["6.17.0-1010-nvidia", "kernel/nvidia-580-open"]],
        "cuda": { "words": "cuda: NVIDIA's driver is not installed", "loaded": false },
        "memory": { "total": 130663165952u64, "free": 1073741824u64, "available": 96636764160u64 },
        "swap": { "total": 17179869184u64, "used": 8589934592u64 },
        "zones": [{ "name": "acpitz", "celsius": 108.0 }],
        "governors": [{ "name": "powersave", "driver": "cppc_cpufreq", "cores": 20 }],
        "port": { "address": "127.0.0.1:8000", "port": 8000, "holder": [77, "python3"], "ours": false },
    }));
    let checks = diagnose(&broken);
    let mut codes: Vec<&str> = checks.iter().map(|check| check.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), checks.len());
    for check in checks.iter().filter(|check| check.state >= CheckState::Warn) {
        let fix = check.fix.as_ref().unwrap_or_else(|| panic!("{} has no fix", check.code));
        assert!(fix.text.ends_with(['.', ':']), "{check:?}");
        assert!(!check.evidence.is_empty(), "{check:?}");
    }
    assert!(checks.iter().filter(|check| check.state >= CheckState::Warn).count() >= 8, "{checks:#?}");
}

#[test]
fn after_a_kernel_update_the_package_for_the_running_kernel_is_named() {
    let updated = spark(json!({
        "module": null, "library": "not_loaded", "gpu": [], "modules": [["6.17.0-1010-nvidia", "kernel/nvidia-580-open"]],
    }));
    let package = "sudo apt install linux-modules-nvidia-580-open-$(uname -r)";
    expect(
        &updated,
        "driver_kernel",
        CheckState::Fail,
        &["6.17.0-1014-nvidia", "6.17.0-1010-nvidia", package],
    );
    expect(&updated, "driver", CheckState::Fail, &["not loaded", package]);
    expect(&updated, "driver_version", CheckState::Skipped, &[]);
}

#[test]
fn on_another_system_the_module_is_built_or_the_driver_installed() {
    let pc = |modules: Value| {
        spark(
            json!({ "module": null, "library": "not_loaded", "gpu": [], "dgx_os": false, "modules": modules,
            "pci": [{ "address": "0000:01:00.0", "device": "2330" }] }),
        )
    };
    expect(
        &pc(json!([["6.8.0-1", "updates/dkms"]])),
        "driver_kernel",
        CheckState::Fail,
        &["sudo dkms autoinstall"],
    );
    expect(&pc(json!([])), "driver", CheckState::Fail, &["no driver for it", "nvidia-driver-580-open"]);
    let there = pc(json!([["6.17.0-1014-nvidia", "updates/dkms"]]));
    expect(&there, "driver", CheckState::Fail, &["not loaded", "sudo modprobe nvidia", "Secure Boot"]);
}

#[test]
fn an_update_under_a_running_driver_asks_for_a_restart() {
    let mixed = spark(json!({ "library": "mismatch", "gpu": [] }));
    expect(&mixed, "driver", CheckState::Fail, &["different versions", "sudo reboot"]);
    expect(&mixed, "driver_kernel", CheckState::Fail, &["updated while it was running"]);
}

#[test]
fn a_container_without_the_library_is_told_apart_from_a_missing_driver() {
    let container = spark(json!({ "library": "missing", "gpu": [], "modules": [] }));
    expect(&container, "driver", CheckState::Fail, &["library is missing", "--gpus all"]);
    expect(&container, "driver_kernel", CheckState::Pass, &["is loaded"]);
}

#[test]
fn a_machine_without_a_gpu_is_no_failure() {
    let pc = spark(
        json!({ "pci": [], "module": null, "modules": [], "library": "missing", "gpu": [], "selftests": [],
        "cuda": null }),
    );
    for code in ["driver", "driver_kernel", "driver_version", "cuda", "selftest", "power_cap"] {
        expect(&pc, code, CheckState::Skipped, &[]);
    }
    expect(&pc, "driver", CheckState::Skipped, &["models run on the CPU"]);
    let unknown =
        spark(json!({ "pci": null, "module": null, "modules": [], "library": "missing", "gpu": [] }));
    expect(&unknown, "driver", CheckState::Skipped, &["can be seen"]);
}

#[test]
fn drivers_and_kernels_known_bad_are_named() {
    let version = |driver: &str, kernel: &str| {
        let mut readings = working(2400.0, 48.0, 68.0);
        readings[2]["driver"] = json!(driver);
        spark(json!({ "gpu": readings, "kernel": kernel }))
    };
    let kernel = "6.17.0-1014-nvidia";
    expect(
        &version("570.124.06", kernel),
        "driver_version",
        CheckState::Fail,
        &["570.124.06", "580", "CUDA 13.0"],
    );
    expect(&version("590.44.01", kernel), "driver_version", CheckState::Warn, &["590.44.01", "deadlocks"]);
    expect(&version("580.142", kernel), "driver_version", CheckState::Pass, &["580.142"]);
    expect(
        &version("580.142", "6.17.0-1008-nvidia"),
        "driver_version",
        CheckState::Warn,
        &["6.17.0-1008", "update"],
    );
    expect(&version("nonsense", kernel), "driver_version", CheckState::Skipped, &["not a version"]);
}

#[test]
fn gpu_code_that_does_not_load_shows_the_drivers_words() {
    let words = "cuda: CUDA_ERROR_NO_BINARY_FOR_GPU (209): loading rows";
    let facts = spark(json!({ "cuda": { "words": words, "loaded": false } }));
    expect(&facts, "cuda", CheckState::Fail, &[words]);
    expect(&spark(json!({ "cuda": null })), "cuda", CheckState::Skipped, &["not tried"]);
}

#[test]
fn a_selftest_counts_only_for_this_device_driver_and_version() {
    let with = |device: &str, version: &str| {
        spark(json!({ "selftests": [{ "device": device, "version": version, "checks": 41 }] }))
    };
    let mine = "NVIDIA GB10 (12.1), driver 580.95.05 (CUDA 13.0)";
    expect(&with(mine, "0.1.0"), "selftest", CheckState::Pass, &["agreed", "41 checks"]);
    for (device, version) in [
        (mine, "0.0.9"),
        ("NVIDIA GB10 (12.1), driver 570.1", "0.1.0"),
        ("NVIDIA H100 (9.0), driver 580.95.05", "0.1.0"),
    ] {
        expect(
            &with(device, version),
            "selftest",
            CheckState::Skipped,
            &["passed before", "hearth selftest"],
        );
    }
    expect(
        &spark(json!({ "selftests": [] })),
        "selftest",
        CheckState::Skipped,
        &["not been tested", "hearth selftest"],
    );
}

#[test]
fn a_power_cap_stuck_after_the_supply_was_negotiated_is_seen_under_load_only() {
    let capped = spark(json!({ "gpu": working(611.0, 22.4, 52.0) }));
    expect(
        &capped,
        "power_cap",
        CheckState::Fail,
        &["611 MHz", "22 W", "unplug the power brick", "60 seconds"],
    );
    let idle: Value = {
        let mut readings = working(208.0, 4.2, 41.0);
        for reading in readings.as_array_mut().unwrap() {
            reading["utilisation"] = json!(0.0);
        }
        readings
    };
    expect(
        &spark(json!({ "gpu": idle })),
        "power_cap",
        CheckState::Skipped,
        &["only while the GPU works hard"],
    );
    expect(
        &spark(json!({ "gpu": working(2400.0, 48.0, 68.0) })),
        "power_cap",
        CheckState::Pass,
        &["2400 MHz"],
    );
    // Slow because it is hot is another complaint.
    let hot = spark(json!({ "gpu": working(700.0, 30.0, 91.0) }));
    expect(&hot, "power_cap", CheckState::Pass, &[]);
    expect(&hot, "heat", CheckState::Fail, &["91 °C", "nvidia-smi -lgc"]);
    let blind = spark(json!({ "gpu": without("sm_clock_mhz", working(0.0, 48.0, 68.0)) }));
    expect(&blind, "power_cap", CheckState::Skipped, &["does not tell its clock"]);
    let once = spark(json!({ "gpu": [working(611.0, 22.4, 52.0)[0]] }));
    expect(&once, "power_cap", CheckState::Skipped, &[]);
}

#[test]
fn a_small_gpu_that_is_meant_to_be_slow_is_not_capped() {
    let mut readings = working(900.0, 8.0, 55.0);
    for reading in readings.as_array_mut().unwrap() {
        reading["sm_clock_most_mhz"] = json!(921.0);
    }
    expect(&spark(json!({ "gpu": readings })), "power_cap", CheckState::Pass, &[]);
}

#[test]
fn heat_is_judged_by_the_gpu_and_by_the_zones_and_broken_sensors_are_left_out() {
    expect(
        &spark(json!({ "gpu": working(2300.0, 70.0, 86.0) })),
        "heat",
        CheckState::Warn,
        &["86 °C", "55 to 76"],
    );
    let zones = |celsius: f64| spark(json!({ "zones": [{ "name": "soc", "celsius": celsius }] }));
    expect(&zones(97.0), "heat", CheckState::Warn, &["soc: 97 °C"]);
    expect(&zones(106.0), "heat", CheckState::Fail, &["soc: 106 °C"]);
    expect(&zones(-273.0), "heat", CheckState::Pass, &["GPU: 69 °C"]);
    expect(&zones(255.0), "heat", CheckState::Pass, &[]);
    expect(&spark(json!({ "zones": [], "gpu": [] })), "heat", CheckState::Skipped, &["No sensor"]);
}

#[test]
fn programs_that_hold_memory_are_named_with_the_polite_way_to_stop_each() {
    let id = "9f2c4e6a8b0d1f3e5a7c9b1d3f5e7a9c0b2d4f6e8a0c1e3f5b7d9a1c3e5f7b90";
    let gib = |n: u64| n << 30;
    let facts = spark(json!({ "processes": [
        { "pid": 812, "parent": 1, "name": "ollama", "arguments": ["/usr/local/bin/ollama", "serve"], "resident": gib(1), "gpu": null, "group": "/system.slice/ollama.service" },
        { "pid": 990, "parent": 812, "name": "ollama", "arguments": ["/usr/local/bin/ollama", "runner", "--model", "x"], "resident": gib(2), "gpu": gib(20), "group": "/system.slice/ollama.service" },
        { "pid": 1200, "parent": 1100, "name": "python3", "arguments": ["python3", "-m", "vllm.entrypoints.openai.api_server", "--api-key", "sk-very-secret"], "resident": gib(4), "gpu": null, "group": format!("/system.slice/docker-{id}.scope") },
        { "pid": 1201, "parent": 1200, "name": "VLLM::EngineCor", "arguments": ["VLLM::EngineCore"], "resident": gib(3), "gpu": gib(40), "group": format!("/system.slice/docker-{id}.scope") },
        { "pid": 1500, "parent": 1, "name": "llama-server", "arguments": ["./llama-server", "-m", "/home/ada/m.gguf"], "resident": gib(9), "gpu": null, "group": "/user.slice/user-1000.slice/session-2.scope" },
        { "pid": 1600, "parent": 1, "name": "blender", "arguments": ["blender"], "resident": gib(1), "gpu": gib(6), "group": "" },
        { "pid": 1700, "parent": 1, "name": "firefox", "arguments": ["firefox"], "resident": gib(2), "gpu": 200 << 20, "group": "" },
        { "pid": 3300, "parent": 3290, "name": "hearth", "arguments": ["hearth", "serve"], "resident": gib(2), "gpu": gib(31), "group": "", "ours": true },
    ] }));
    expect(
        &facts,
        "others",
        CheckState::Warn,
        &[
            "vLLM, Ollama, llama.cpp and 1 more",
            "Ollama (pid 812, 990), kept by ollama.service: 3.0 GiB of memory, 20.0 GiB of GPU memory",
            "vLLM (pid 1200, 1201) in docker container 9f2c4e6a8b0d",
            "docker stop 9f2c4e6a8b0d",
            "xargs -r -n1 ollama stop",
            "llama.cpp (pid 1500)",
            "kill -INT 1500",
            "blender (pid 1600)",
        ],
    );
    let (_, text) = read(&facts, "others");
    for kept_out in ["firefox", "hearth", "secret", "/home/ada"] {
        assert!(!text.contains(kept_out), "{kept_out} is in:\n{text}");
    }
}

#[test]
fn the_page_cache_matters_on_a_spark_and_nowhere_else() {
    let memory = json!({ "total": 130663165952u64, "free": 5368709120u64, "available": 96636764160u64 });
    let full = spark(json!({ "memory": memory }));
    expect(
        &full,
        "page_cache",
        CheckState::Warn,
        &["CUDA counts as used", "drop_caches", "85.0 GiB", "5.0 GiB"],
    );
    let pc = spark(json!({ "memory": memory, "gpu": [], "pci": [] }));
    expect(&pc, "page_cache", CheckState::Pass, &[]);
    expect(&spark(json!({ "memory": null })), "page_cache", CheckState::Skipped, &["/proc/meminfo"]);
}

#[test]
fn swap_in_use_is_brought_back_only_where_there_is_room_for_it() {
    let swap = json!({ "total": 17179869184u64, "used": 6442450944u64 });
    let roomy = spark(json!({ "swap": swap }));
    expect(&roomy, "swap", CheckState::Warn, &["6.0 GiB of 16.0 GiB", "swapoff -a"]);
    let tight = json!({ "total": 130663165952u64, "free": 1073741824u64, "available": 7516192768u64 });
    let (state, text) = read(&spark(json!({ "swap": swap, "memory": tight })), "swap");
    assert!(state == CheckState::Warn && !text.contains("swapoff"), "{text}");
    expect(&spark(json!({ "swap": { "total": 0, "used": 0 } })), "swap", CheckState::Pass, &["no swap"]);
}

#[test]
fn a_slow_governor_is_told_from_a_preference() {
    let with = |name: &str, driver: &str| {
        spark(json!({ "governors": [{ "name": name, "driver": driver, "cores": 20 }] }))
    };
    expect(
        &with("powersave", "cppc_cpufreq"),
        "governor",
        CheckState::Warn,
        &["scaling_governor", "20 cores"],
    );
    expect(&with("powersave", "intel_pstate"), "governor", CheckState::Pass, &[]);
    expect(&with("schedutil", "cppc_cpufreq"), "governor", CheckState::Pass, &[]);
    expect(&spark(json!({ "governors": [] })), "governor", CheckState::Skipped, &["virtual machine"]);
}

#[test]
fn little_room_and_no_room_on_the_disk_are_two_things() {
    let disk = |models: u64, state: u64| {
        spark(json!({ "disks": [
            { "holds": "models", "path": "/models", "total": 1u64 << 40, "free": models },
            { "holds": "history and logs", "path": "/state", "total": 1u64 << 40, "free": state },
        ] }))
    };
    expect(&disk(20 << 30, 60 << 30), "disk", CheckState::Warn, &["short", "20.0 GiB free", "du -xh"]);
    expect(&disk(900 << 30, 100 << 20), "disk", CheckState::Fail, &["no room left for history and logs"]);
    expect(&spark(json!({ "disks": [] })), "disk", CheckState::Skipped, &[]);
}

#[test]
fn a_port_that_another_program_holds_is_named_with_both_ways_out() {
    let port = |holder: Value| {
        spark(
            json!({ "port": { "address": "127.0.0.1:8000", "port": 8000, "holder": holder, "ours": false } }),
        )
    };
    expect(
        &port(json!([77, "python3"])),
        "port",
        CheckState::Fail,
        &["python3", "pid 77", "--port 8001", "kill 77"],
    );
    expect(&port(json!([null, null])), "port", CheckState::Fail, &["another user", "--port 8001"]);
    expect(&port(json!(null)), "port", CheckState::Pass, &["free"]);
}

#[test]
fn keys_that_others_can_read_are_closed_by_a_button_or_a_command() {
    let file = |mode: u32, own: bool| {
        spark(
            json!({ "files": [{ "what": "control-token", "path": "/home/ada/it's/control-token", "mode": mode, "own": own }] }),
        )
    };
    expect(
        &file(0o644, true),
        "permissions",
        CheckState::Fail,
        &["mode 644", r"chmod go= '/home/ada/it'\''s/control-token'"],
    );
    let check = check(&file(0o640, true), "permissions");
    assert_eq!(serde_json::to_value(check.fix.unwrap().action).unwrap(), "close_files");
    expect(&file(0o600, false), "permissions", CheckState::Fail, &["another user", "sudo chown"]);
    expect(&file(0o600, true), "permissions", CheckState::Pass, &["Only you"]);
}

#[test]
fn hugging_face_is_asked_only_on_request_and_its_silence_is_no_failure() {
    expect(&spark(json!({})), "hub", CheckState::Skipped, &["Not asked", "hearth doctor --hub"]);
    let hub = |answer: Value| spark(json!({ "hub": answer }));
    let silent = hub(json!({ "host": "huggingface.co:443", "answered_ms": null, "problem": "timed out" }));
    expect(&silent, "hub", CheckState::Warn, &["huggingface.co:443: timed out", "HTTPS_PROXY"]);
    let there = hub(json!({ "host": "huggingface.co:443", "answered_ms": 38.2, "problem": null }));
    expect(&there, "hub", CheckState::Pass, &["38 ms"]);
}

#[test]
fn the_report_tells_the_checks_and_keeps_secrets_names_and_paths_to_itself() {
    let facts = spark(json!({
        "files": [{ "what": "control-token", "path": "/home/ada/.config/hearth/control-token", "mode": 420, "own": true }],
        "port": { "address": "127.0.0.1:8000", "port": 8000, "holder": [77, "ada-server"], "ours": false },
    }));
    let log =
        "loading /home/ada/models/x\nrequest {\"prompt\":\"my diary\"}\nHF_TOKEN=hf_abcdefghijkl".to_owned();
    let redactor =
        Redactor::new(&["s3cret-token".into()], Some("/home/ada".as_ref()), Some("ada"), Some("spark-1"));
    let text = report(
        &facts,
        &diagnose(&facts),
        &[("Log", log), ("Token", "s3cret-token on spark-1".into())],
        &redactor,
    );
    for word in [
        "NVIDIA GB10",
        "580.95.05",
        "[FAIL ] Port",
        "control-token: mode 644",
        "[ok   ] Swap",
        "Log",
        "~/models/x",
    ] {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    for private in ["/home/ada", "ada-server", "diary", "hf_abc", "s3cret", "spark-1"] {
        assert!(!text.contains(private), "{private:?} is in:\n{text}");
    }
}
