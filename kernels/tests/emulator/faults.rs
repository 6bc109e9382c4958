//! Planted faults, each caught: by an error that says where, or by a result that is not the right one.

use crate::{all_devices, download, emulator, launch, refused, room, seeded, upload};
use hearth_kernels::cuda::emulated::{AsyncCopies, EmulatorOptions};

const SEEDS: u64 = 8;

/// What a kernel that writes 128 numbers leaves under each seed, when only the order of threads can show a fault.
fn under_seeds(kernel: &str, threads: u32) -> Vec<Vec<u32>> {
    (0..SEEDS)
        .map(|seed| {
            let gpu = emulator(EmulatorOptions { seed, watch: false, ..EmulatorOptions::default() });
            let out = room::<u32>(&gpu, 128);
            launch(&gpu, kernel, 1, threads, 0, &[out]).unwrap();
            download(&gpu, out, threads as usize)
        })
        .collect()
}

#[test]
fn a_missing_barrier_lets_poison_or_another_order_through() {
    let right: Vec<u32> = (0..128).map(|i| (i + 32) % 128).collect();
    assert!(under_seeds("fault_missing_barrier_mended", 128).iter().all(|out| *out == right));
    let wrong = under_seeds("fault_missing_barrier", 128);
    assert!(wrong.iter().all(|out| *out != right), "caught under every seed");
    assert!(wrong.iter().all(|out| out.contains(&u32::MAX)), "by poison");

    let right: Vec<u32> = (0..32).rev().collect();
    assert!(under_seeds("fault_missing_syncwarp", 32).iter().all(|out| *out != right));

    let wrong = under_seeds("fault_missing_second_barrier", 128);
    assert!(wrong.iter().filter(|out| out.iter().any(|v| *v != 6)).count() >= 6, "{wrong:?}");
}

#[test]
fn a_missing_barrier_is_a_race_in_every_order() {
    for gpu in all_devices() {
        let out = room::<u32>(&gpu, 128);
        launch(&gpu, "fault_missing_barrier_mended", 1, 128, 0, &[out]).unwrap();
        for (kernel, threads) in [
            ("fault_missing_barrier", 128),
            ("fault_missing_syncwarp", 32),
            ("fault_missing_second_barrier", 128),
        ] {
            let words = [kernel, "a race on byte", "of the shared array 'line'", "with no barrier between"];
            refused(launch(&gpu, kernel, 1, threads, 0, &[out]), &words);
        }
        refused(launch(&gpu, "fault_shuffle_for_barrier", 1, 32, 0, &[out]), &["a race on byte"]);
        for kernel in ["fault_half_barrier", "fault_bytes"] {
            launch(&gpu, &format!("{kernel}_mended"), 1, 32, 0, &[out]).unwrap();
            refused(launch(&gpu, kernel, 1, 32, 0, &[out]), &["a race on byte"]);
        }
    }
}

#[test]
fn an_access_out_of_bounds_names_kernel_block_thread_and_buffer() {
    for gpu in all_devices() {
        let data = upload(&gpu, &[0.0f32; 64]);
        let words =
            ["CUDA_ERROR_ILLEGAL_ADDRESS (700)", "kernel fault_read_beyond, block (0, 0, 0), thread 63"];
        refused(launch(&gpu, "fault_read_beyond", 1, 64, 0, &[data, 64]), &words);
        refused(
            launch(&gpu, "fault_read_beyond", 1, 64, 0, &[data, 64]),
            &["0 bytes behind the end of a buffer of 256 bytes"],
        );
        // An end that is no multiple of 16: the write is found after the kernel.
        let odd = upload(&gpu, &[0.0f32; 13]);
        refused(
            launch(&gpu, "fault_write_beyond", 1, 64, 0, &[odd, 13]),
            &["kernel fault_write_beyond", "0 bytes behind the end of a buffer of 52 bytes"],
        );
        gpu.free(odd);
        refused(
            launch(&gpu, "fault_write_before", 1, 64, 0, &[data, 64]),
            &["4 bytes before a buffer of 256 bytes"],
        );
    }
}

#[test]
fn a_null_pointer_and_a_buffer_given_back_are_out_of_bounds() {
    let gpu = seeded(0);
    let data = upload(&gpu, &[0.0f32; 64]);
    refused(launch(&gpu, "fault_null", 1, 32, 0, &[data, 0]), &["(700)", "thread", "no buffer is near"]);
    gpu.free(data);
    let again = upload(&gpu, &[0.0f32; 64]);
    assert_ne!(again, data, "an address is not given out twice");
    refused(
        launch(&gpu, "fault_write_beyond", 1, 32, 0, &[data, 64]),
        &["(700)", "of a buffer given back, of 256 bytes"],
    );
}

#[test]
fn shared_memory_ends_where_it_ends() {
    for gpu in all_devices() {
        let data = upload(&gpu, &[0.0f32; 64]);
        let args = [data, 64];
        refused(launch(&gpu, "fault_shared_beyond", 1, 64, 0, &args), &["shared array 'line', 128 bytes"]);
        refused(
            launch(&gpu, "fault_shared_index", 1, 64, 0, &args),
            &["index 67", "thread 63", "out_of_bounds.cu:"],
        );
        refused(
            launch(&gpu, "fault_dynamic_beyond", 1, 64, 128, &args),
            &["of the dynamic shared memory, 128 bytes"],
        );
    }
}

#[test]
fn a_misaligned_vector_access_is_refused() {
    let gpu = seeded(0);
    let data = upload(&gpu, &[0.0f32; 64]);
    for kernel in ["fault_misaligned_load", "fault_misaligned_dereference"] {
        refused(
            launch(&gpu, kernel, 1, 32, 0, &[data, 64]),
            &["CUDA_ERROR_MISALIGNED_ADDRESS (716)", kernel],
        );
    }
}

#[test]
fn a_stack_that_runs_over_is_named() {
    let gpu = seeded(0);
    let data = upload(&gpu, &[0.0f32; 64]);
    refused(launch(&gpu, "fault_stack", 1, 32, 0, &[data, 64]), &["(701)", "a thread's stack is used up"]);
}

#[test]
fn an_unwritten_output_is_nan() {
    for gpu in all_devices() {
        for (kernel, unwritten) in [("fault_unwritten_output", 1), ("fault_unwritten_output_mended", 0)] {
            let out = room::<f32>(&gpu, 77);
            launch(&gpu, kernel, 1, 32, 0, &[out, 77]).unwrap();
            let nan = download::<f32>(&gpu, out, 77).iter().filter(|v| v.is_nan()).count();
            assert_eq!(nan, unwritten, "{kernel}");
        }
    }
}

#[test]
fn a_copy_that_nobody_waited_for_has_not_arrived() {
    let run = |kernel, copies, seed| {
        let gpu = emulator(EmulatorOptions { copies, seed, watch: false, ..EmulatorOptions::default() });
        let input: Vec<u32> = (0..256).collect();
        let out = room::<u32>(&gpu, 128);
        launch(&gpu, kernel, 1, 32, 0, &[upload(&gpu, &input), out]).unwrap();
        download::<u32>(&gpu, out, 128) == input[..128]
    };
    for seed in 0..SEEDS {
        for kernel in ["fault_missing_wait", "fault_lax_wait", "fault_missing_commit"] {
            assert!(!run(kernel, AsyncCopies::Deferred, seed), "{kernel}");
            assert!(run(kernel, AsyncCopies::Immediate, seed), "only the deferred mode can see this one");
        }
        for copies in [AsyncCopies::Deferred, AsyncCopies::Immediate] {
            assert!(!run("fault_wait_without_barrier", copies, seed));
        }
    }
    for gpu in all_devices() {
        let args = [upload(&gpu, &[0u32; 256]), room::<u32>(&gpu, 128)];
        refused(launch(&gpu, "fault_wait_without_barrier", 1, 32, 0, &args), &["a race on byte"]);
    }
}

#[test]
fn a_counter_that_tells_of_writes_without_a_fence_and_a_reader_without_one_are_named() {
    let mut early = Vec::new();
    for gpu in all_devices() {
        // Twice: who wrote what is kept once a kernel was seen to have atomics.
        let run = |kernel: &str| {
            let [parts, arrived, out] = [room::<u32>(&gpu, 5), upload(&gpu, &[0u32]), room::<u32>(&gpu, 1)];
            launch(&gpu, kernel, 5, 64, 0, &[parts, arrived, out])
                .and_then(|()| launch(&gpu, kernel, 5, 64, 0, &[parts, arrived, out]))
                .map(|()| download::<u32>(&gpu, out, 1)[0])
        };
        assert_eq!(run("fault_missing_fence_mended"), Ok(15));
        let before = run("fault_missing_fence_before").map(drop);
        refused(before, &["(719)", "fault_missing_fence_before", "no __threadfence() between"]);
        let behind = run("fault_missing_fence_behind").map(drop);
        refused(behind, &["(719)", "fault_missing_fence_behind", "no __threadfence() behind an atomic"]);
        early.extend(run("fault_told_too_early").err());
    }
    // Where the threads' order brings the one that tells before the one that writes.
    assert!(!early.is_empty(), "somebody tells too early");
    for error in early {
        refused(
            Err(error),
            &["(719)", "fault_told_too_early", "after the last atomic that could tell of it"],
        );
    }
}

#[test]
fn a_barrier_in_divergent_code_is_named() {
    for gpu in all_devices() {
        refused(
            launch(&gpu, "fault_early_return", 1, 64, 0, &[40]),
            &["(719)", "__syncthreads()", "kernel fault_early_return", "ended"],
        );
        refused(
            launch(&gpu, "fault_divergent_barrier", 1, 64, 0, &[40]),
            &["(719)", "different __syncthreads()", "divergent_barrier.cu:"],
        );
        // A condition that holds for all is no divergence.
        launch(&gpu, "fault_divergent_barrier", 1, 64, 0, &[64]).unwrap();
    }
}

#[test]
fn a_deadlock_says_who_waits_where() {
    for gpu in all_devices() {
        let words = [
            "CUDA_ERROR_LAUNCH_TIMEOUT (702)",
            "threads 0-39: in __syncthreads() at ",
            "threads 40-63: in a __syncwarp of mask ffffffff at ",
            "divergent_barrier.cu:",
        ];
        refused(launch(&gpu, "fault_deadlock", 1, 64, 0, &[40]), &words);
        let flag = upload(&gpu, &[0u32]);
        refused(launch(&gpu, "fault_spin", 1, 32, 0, &[flag]), &["(702)", "spinning at"]);
    }
}

#[test]
fn a_loop_without_an_end_ends() {
    for watch in [true, false] {
        let gpu = emulator(EmulatorOptions { seconds: 1, watch, ..EmulatorOptions::default() });
        let flag = upload(&gpu, &[0u32]);
        let endless = launch(&gpu, "fault_endless", 1, 32, 0, &[flag]);
        refused(endless, &["(702)", "kernel fault_endless", "has computed for 1 s", "without an end"]);
    }
}

#[test]
fn a_wrong_mask_is_refused() {
    for gpu in all_devices() {
        let out = room::<u32>(&gpu, 32);
        let fault = |kernel, words: &[&str]| refused(launch(&gpu, kernel, 1, 32, 0, &[out]), words);
        fault("fault_mask_too_wide", &["shuffle", "mask", "ffffffff", "ended"]);
        fault("fault_mask_too_narrow", &["shuffle", "does not name the calling lane"]);
        fault("fault_reads_beyond_mask", &["reads lane", "which the mask does not name"]);
        fault("fault_ended_lane", &["vote", "ended"]);
        fault("fault_half_mma", &["mma_f16", "ended"]);
    }
}

#[test]
fn after_a_fault_the_device_runs_the_next_kernel() {
    let gpu = seeded(0);
    let data = upload(&gpu, &[0.0f32; 64]);
    for _ in 0..50 {
        refused(launch(&gpu, "fault_read_beyond", 1, 64, 0, &[data, 64]), &["(700)"]);
        let out = room::<f32>(&gpu, 77);
        launch(&gpu, "fault_unwritten_output_mended", 1, 32, 0, &[out, 77]).unwrap();
        assert_eq!(download::<f32>(&gpu, out, 77), [1.0; 77]);
    }
}
