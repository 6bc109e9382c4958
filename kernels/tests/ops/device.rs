//! Memory of a device behind tensors.

use crate::bench::{Rng, devices, one_of_each, tensor};
use hearth_kernels::{DType, OpError};

#[test]
fn what_is_uploaded_reads_back() {
    for backend in &devices() {
        let x = Rng(1).floats(7 * 33);
        let t = tensor(backend, &[7, 33], &x);
        assert_eq!(backend.read_rows(&t, 0, 7).unwrap(), x);
        assert_eq!(backend.read_rows(&t, 2, 3).unwrap(), x[66..165]);
        assert_eq!(backend.read_rows(&t, 7, 0).unwrap(), [0f32; 0]);
        assert!(matches!(backend.read_rows(&t, 6, 2), Err(OpError::Shape { .. })));
        assert!(matches!(backend.read_ids(&t, 0, 1), Err(OpError::Shape { .. })));
        let zeros = backend.zeros(DType::F32, &[5, 3]).unwrap();
        assert_eq!(backend.read_rows(&zeros, 0, 5).unwrap(), [0.0; 15]);
    }
}

#[test]
fn more_memory_than_the_device_has_is_refused() {
    for backend in &devices() {
        let refused = backend.zeros(DType::F32, &[1 << 40]);
        assert!(matches!(refused, Err(OpError::OutOfMemory { .. })), "{refused:?}");
    }
}

#[test]
fn scrambled_memory_holds_the_same_finite_numbers_on_every_backend() {
    let read = |seed| -> Vec<Vec<f32>> {
        let backends = one_of_each();
        let scrambled = backends.iter().map(|backend| {
            let mut x = backend.zeros(DType::F32, &[3, 100]).unwrap();
            backend.scramble(&mut x, seed).unwrap();
            backend.read_rows(&x, 0, 3).unwrap()
        });
        scrambled.collect()
    };
    let (first, second) = (read(1), read(2));
    for numbers in &first {
        assert_eq!(numbers, &first[0]);
        assert!(numbers.iter().all(|x| x.is_finite()) && numbers[0] != numbers[1]);
    }
    assert_ne!(first[0], second[0]);
}
