//! Which of several kernels a product of few rows takes. All give the same bits; which is faster depends on the machine, so
//! `tune.rs` measures it there, and what was not measured is taken in the first way.

use crate::WeightFormat;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a product's weights come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Variant {
    /// Into registers, as many blocks to a multiprocessor as those allow: linear_decode.cu.
    #[default]
    Registers,
    /// Into shared memory: linear_ring.cu.
    Ring {
        /// Groups of tiles that a warp has on their way: 2, 4 or 6.
        groups: u32,
        /// Blocks to a multiprocessor.
        blocks: u32,
    },
}

impl Variant {
    /// Those that are tried beside the first.
    pub(super) const RINGS: [Variant; 5] = [
        Variant::Ring { groups: 6, blocks: 1 },
        Variant::Ring { groups: 4, blocks: 1 },
        Variant::Ring { groups: 4, blocks: 2 },
        Variant::Ring { groups: 2, blocks: 1 },
        Variant::Ring { groups: 2, blocks: 2 },
    ];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Registers => f.write_str("registers"),
            Variant::Ring { groups, blocks } => write!(f, "ring of {groups}, {blocks} a multiprocessor"),
        }
    }
}

/// A product, as far as the choice may depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Product {
    /// Format and row tiles of each weight.
    pub weights: Vec<(WeightFormat, u32)>,
    /// Tiles of a row.
    pub k_tiles: u32,
    /// More than one row.
    pub several: bool,
    /// A convolution ends it.
    pub convolves: bool,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (format, row_tiles)) in self.weights.iter().enumerate() {
            write!(f, "{}{format:?} {}", if i > 0 { " + " } else { "" }, 16 * row_tiles)?;
        }
        let conv = if self.convolves { ", convolved" } else { "" };
        write!(f, " x {}{conv}, {}", 64 * self.k_tiles, if self.several { "2 to 4 rows" } else { "1 row" })
    }
}

/// What was chosen so far.
#[derive(Debug, Default)]
pub(super) struct Variants {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Taken wherever it is possible.
    forced: Option<Variant>,
    chosen: HashMap<Product, Variant>,
    /// How a multiprocessor's memory is divided was decided.
    divided: bool,
    /// Products that were asked for since [`Variants::listen`], with their possible variants.
    heard: Option<Vec<(Product, Vec<Variant>)>>,
}

impl Variants {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variant of a product of which `rings` are possible beside the first.
    pub fn of(&self, product: Product, rings: Vec<Variant>) -> Variant {
        let mut state = self.state();
        let wanted = state.forced.or_else(|| state.chosen.get(&product).copied()).unwrap_or_default();
        let taken = if rings.contains(&wanted) { wanted } else { Variant::Registers };
        if let Some(heard) = &mut state.heard
            && heard.iter().all(|(known, _)| *known != product)
        {
            heard.push((product, rings));
        }
        taken
    }

    /// Takes `variant` for every product of which it is possible; None: what was chosen.
    pub fn force(&self, variant: Option<Variant>) {
        self.state().forced = variant;
    }

    /// Whether what is chosen counts.
    pub fn is_forced(&self) -> bool {
        self.state().forced.is_some()
    }

    /// True at the first call: how a multiprocessor's memory is divided is decided once.
    pub fn divide(&self) -> bool {
        !std::mem::replace(&mut self.state().divided, true)
    }

    /// From now on takes this variant of a product.
    pub fn choose(&self, product: &Product, variant: Variant) {
        self.state().chosen.insert(product.clone(), variant);
    }

    /// Notes the products that are asked for during `body` and were not chosen for yet.
    pub fn heard_during<T>(&self, body: impl FnOnce() -> T) -> (T, Vec<(Product, Vec<Variant>)>) {
        self.state().heard = Some(Vec::new());
        let result = body();
        let mut state = self.state();
        let mut heard = state.heard.take().unwrap_or_default();
        heard.retain(|(product, rings)| !rings.is_empty() && !state.chosen.contains_key(product));
        (result, heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_takes_what_was_chosen_where_it_is_possible() {
        let product = Product {
            weights: vec![(WeightFormat::Fp8, 3), (WeightFormat::Bf16, 1)],
            k_tiles: 4,
            several: false,
            convolves: true,
        };
        assert_eq!(product.to_string(), "Fp8 48 + Bf16 16 x 256, convolved, 1 row");
        let variants = Variants::default();
        let [six, four, ..] = Variant::RINGS;
        let of = |rings: &[Variant]| variants.of(product.clone(), rings.to_vec());
        assert_eq!(of(&Variant::RINGS), Variant::Registers);
        let (taken, heard) = variants.heard_during(|| (of(&[four]), of(&[four])));
        assert_eq!(taken, (Variant::Registers, Variant::Registers));
        assert_eq!(heard, [(product.clone(), vec![four])]);
        variants.choose(&product, six);
        assert_eq!((of(&Variant::RINGS), of(&[four])), (six, Variant::Registers));
        assert_eq!(variants.heard_during(|| of(&[four])).1, [], "it was chosen for");
        variants.force(Some(four));
        assert_eq!((of(&Variant::RINGS), of(&[])), (four, Variant::Registers));
    }
}
