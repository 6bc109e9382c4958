//! Which of attend_decode.cu's and attend_prefill.cu's kernels a head size takes. Heads of 64, 128 and 256 have their own; other
//! multiples of 16 lie, filled up with zeros in shared memory, within 128 or 256.

use crate::ops::KvFormat;

/// What the kernels have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadRoom {
    Exactly64,
    Exactly128,
    Exactly256,
    /// 80, 96 or 112.
    Within128,
    /// 144 to 240.
    Within256,
}

impl HeadRoom {
    /// None for heads that only attend_general.cu takes.
    pub fn of(head_dim: usize) -> Option<HeadRoom> {
        match head_dim {
            64 => Some(HeadRoom::Exactly64),
            128 => Some(HeadRoom::Exactly128),
            256 => Some(HeadRoom::Exactly256),
            65..128 if head_dim.is_multiple_of(16) => Some(HeadRoom::Within128),
            129..256 if head_dim.is_multiple_of(16) => Some(HeadRoom::Within256),
            _ => None,
        }
    }

    /// Dimensions of a head in shared memory.
    pub fn width(self) -> usize {
        match self {
            HeadRoom::Exactly64 => 64,
            HeadRoom::Exactly128 | HeadRoom::Within128 => 128,
            HeadRoom::Exactly256 | HeadRoom::Within256 => 256,
        }
    }

    /// For how many units there are decode kernels, in ascending order.
    pub fn units(self) -> &'static [usize] {
        match self {
            HeadRoom::Exactly64 | HeadRoom::Exactly128 | HeadRoom::Exactly256 => &[1, 2, 4],
            HeadRoom::Within128 => &[1, 4],
            HeadRoom::Within256 => &[1, 2],
        }
    }
}

macro_rules! named {
    ($kernel:literal, $format:expr, $room:expr, $units:literal) => {
        match $format {
            KvFormat::F32 => None,
            KvFormat::Bf16 => Some(named!(concat $kernel, "_bf16", $room, $units)),
            KvFormat::Fp8 => Some(named!(concat $kernel, "_fp8", $room, $units)),
            KvFormat::Nvfp4 => Some(named!(concat $kernel, "_nvfp4", $room, $units)),
        }
    };
    (concat $kernel:literal, $format:literal, $room:expr, $units:literal) => {
        match $room {
            HeadRoom::Exactly64 => concat!($kernel, $format, "_64", $units),
            HeadRoom::Exactly128 => concat!($kernel, $format, "_128", $units),
            HeadRoom::Exactly256 => concat!($kernel, $format, "_256", $units),
            HeadRoom::Within128 => concat!($kernel, $format, "_within_128", $units),
            HeadRoom::Within256 => concat!($kernel, $format, "_within_256", $units),
        }
    };
}

/// Name of the prefill kernel; None for f32 caches.
pub(super) fn prefill(format: KvFormat, room: HeadRoom) -> Option<&'static str> {
    named!("attend_prefill", format, room, "")
}

/// Name of the decode kernel for so many units, one of [`HeadRoom::units`]; None for f32 caches.
pub(super) fn decode(format: KvFormat, room: HeadRoom, units: usize) -> Option<&'static str> {
    match units {
        1 => named!("attend_decode", format, room, "_1"),
        2 => named!("attend_decode", format, room, "_2"),
        4 => named!("attend_decode", format, room, "_4"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_multiple_of_16_from_64_to_256_has_fast_kernels_with_room_for_it() {
        for head_dim in 1..=320 {
            let room = HeadRoom::of(head_dim);
            assert_eq!(room.is_some(), (64..=256).contains(&head_dim) && head_dim % 16 == 0, "{head_dim}");
            let Some(room) = room else { continue };
            assert!((head_dim..2 * head_dim).contains(&room.width()), "{head_dim}");
            for format in [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Nvfp4] {
                assert!(prefill(format, room).is_some());
                assert!(room.units().iter().all(|units| decode(format, room, *units).is_some()));
            }
        }
    }
}
