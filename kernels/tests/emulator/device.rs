//! What a driver would refuse before a kernel runs, and the host's side of memory.

use crate::{download, emulator, launch, refused, room, seeded, upload};
use hearth_kernels::OpError;
use hearth_kernels::cuda::emulated::EmulatorOptions;

#[test]
fn launches_that_no_gpu_takes_are_refused() {
    let gpu = seeded(0);
    let out = room::<f32>(&gpu, 64);
    let kernel = "fault_unwritten_output_mended";
    let args: Vec<u8> = [out.to_le_bytes(), 64u64.to_le_bytes()].concat();
    let words = |what: &'static str| ["CUDA_ERROR_INVALID_VALUE (1)", what];
    refused(
        launch(&gpu, "no_such_kernel", 1, 32, 0, &[]),
        &["CUDA_ERROR_NOT_FOUND (500)", "'no_such_kernel'"],
    );
    for threads in [0, 1, 48, 64, 2048] {
        refused(gpu.launch(kernel, [1, 1, 1], threads, 0, &args), &words("threads"));
    }
    for grid in [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 65536, 1], [1, 1, 65536], [0x80000000, 1, 1]] {
        refused(gpu.launch(kernel, grid, 32, 0, &args), &words("blocks"));
    }
    refused(
        gpu.launch(kernel, [1, 1, 1], 32, 99 * 1024 + 1, &args),
        &words("101377 bytes of dynamic shared"),
    );
    refused(
        gpu.launch(kernel, [1, 1, 1], 32, 0, &args[..12]),
        &words("argument of 12 bytes; its struct has 16"),
    );
    gpu.launch(kernel, [1, 1, 1], 32, 99 * 1024, &args).unwrap();
    assert_eq!(download::<f32>(&gpu, out, 64), [1.0; 64]);
}

#[test]
fn static_and_dynamic_shared_memory_together_have_a_limit() {
    let gpu = seeded(0);
    let (fixed, dynamic) = (room::<u32>(&gpu, 32), room::<u32>(&gpu, 32));
    let run = |shared| launch(&gpu, "check_fresh_shared", 1, 32, shared, &[fixed, dynamic]);
    run(99 * 1024 - 128).unwrap();
    refused(run(99 * 1024 - 112), &["128 bytes of static", "at most", "101376 in all"]);
}

#[test]
fn copies_stay_within_one_buffer() {
    let gpu = seeded(0);
    let at = upload(&gpu, &[1u8; 100]);
    let mut bytes = [0; 101];
    refused(
        gpu.read(at, &mut bytes),
        &["CUDA_ERROR_INVALID_VALUE (1)", "of 101 bytes", "buffer of 100 bytes"],
    );
    refused(gpu.write(at + 1, &bytes[..100]), &["a copy from the host"]);
    gpu.read(at + 1, &mut bytes[..99]).unwrap();
    assert_eq!(bytes[..99], [1; 99]);
    gpu.free(at);
    refused(gpu.read(at, &mut bytes[..1]), &["a buffer given back"]);
    gpu.free(at);
    gpu.free(12345);
}

#[test]
fn the_memory_of_the_device_has_an_end() {
    let gpu = emulator(EmulatorOptions { memory: 1000, ..EmulatorOptions::default() });
    let first = gpu.alloc(600).unwrap();
    assert_eq!(gpu.alloc(401), Err(OpError::OutOfMemory { device: "emulated", bytes: 401 }));
    gpu.alloc(400).unwrap();
    assert!(gpu.alloc(1).is_err());
    gpu.free(first);
    gpu.alloc(600).unwrap();
}

#[test]
fn devices_of_several_threads_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let gpu = seeded(seed);
                let data = upload(&gpu, &[0.0f32; 64]);
                for _ in 0..50 {
                    refused(launch(&gpu, "fault_read_beyond", 1, 64, 0, &[data, 64]), &["thread 63"]);
                    let (counter, order) = (upload(&gpu, &[0u32]), room::<u32>(&gpu, 256));
                    launch(&gpu, "check_order", 4, 64, 0, &[counter, order]).unwrap();
                    assert_eq!(download::<u32>(&gpu, counter, 1), [256]);
                }
            });
        }
    });
}
