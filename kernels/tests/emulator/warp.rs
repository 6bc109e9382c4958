//! Shuffles, votes, barriers, atomics.

use crate::{all_devices, download, launch, room, upload};

#[test]
fn shuffles_and_votes_give_each_lane_its_value() {
    for gpu in all_devices() {
        let (out, wide) = (room::<u32>(&gpu, 256), room::<u64>(&gpu, 32));
        launch(&gpu, "check_shuffles", 1, 32, 0, &[out, wide]).unwrap();
        let out: Vec<u32> = download(&gpu, out, 256);
        let thirds = (0..32).filter(|i| i % 3 == 0).fold(0, |bits, i| bits | 1u32 << i);
        for lane in 0..32u32 {
            let found: Vec<u32> = (0..8).map(|i| out[i * 32 + lane as usize]).collect();
            let half: u32 = (0..16).map(|i| 100 + lane / 16 * 16 + i).sum();
            let expected = [
                105,
                100 + lane / 8 * 8 + (lane + 1) % 8,
                100 + (lane ^ 16),
                if lane < 3 { 100 + lane } else { 97 + lane },
                if lane > 28 { 100 + lane } else { 103 + lane },
                thirds,
                0b011,
                half,
            ];
            assert_eq!(found, expected, "lane {lane}");
        }
        assert_eq!(download::<u64>(&gpu, wide, 32), [31u64 << 40 | 31; 32]);
    }
}

#[test]
fn the_last_block_sees_what_all_wrote() {
    for gpu in all_devices() {
        let blocks = 7;
        let (partial, total) = (room::<u32>(&gpu, blocks), room::<u32>(&gpu, 1));
        let (counter, floats) = (upload(&gpu, &[0u32]), upload(&gpu, &[0.0f32]));
        launch(&gpu, "check_last_block", blocks as u32, 256, 0, &[partial, counter, total, floats]).unwrap();
        let sums: Vec<u32> = (0..blocks as u32).map(|b| 255 * 128 + 256 * b).collect();
        assert_eq!(download::<u32>(&gpu, partial, blocks), sums);
        assert_eq!(download::<u32>(&gpu, total, 1), [sums.iter().sum::<u32>()]);
        assert_eq!(download::<u32>(&gpu, counter, 1), [0], "atomicInc wraps for the next launch");
        assert_eq!(download::<f32>(&gpu, floats, 1), [3.5]);
    }
}

#[test]
fn a_warp_may_wait_for_a_flag_of_another() {
    for gpu in all_devices() {
        let (flag, seen) = (upload(&gpu, &[0u32]), room::<u32>(&gpu, 32));
        launch(&gpu, "check_flag", 1, 64, 0, &[flag, seen]).unwrap();
        assert_eq!(download::<u32>(&gpu, seen, 32), [7; 32]);
    }
}
