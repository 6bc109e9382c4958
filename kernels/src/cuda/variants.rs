//! Which of several ways a device takes that give the same bits: of products of few rows, and of attention's splits. Which is faster
//! depends on the machine, so `tune.rs` measures it there, and what was not measured is taken in the first way.

use super::linear_ways::Way;
use crate::WeightFormat;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a product's weights come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Variant {
    /// Into registers, as many blocks to a multiprocessor as those allow: linear_decode.cu. How many tiles a lane has on their
    /// way is a rule's decision.
    #[default]
    Registers,
    /// More of them than the rule says, in fewer blocks.
    Deep,
    /// Fewer of them.
    Shallow,
    /// Into shared memory: linear_ring.cu.
    Ring {
        /// Groups of tiles that a warp has on their way: 2, 4 or 6.
        groups: u32,
        /// Blocks to a multiprocessor.
        blocks: u32,
    },
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Registers => f.write_str("registers"),
            Variant::Deep => f.write_str("more registers"),
            Variant::Shallow => f.write_str("fewer registers"),
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
    /// Attention's splits are joined by a launch of their own; None: nobody decided, so by the last of their blocks.
    apart: Option<bool>,
    /// Instead of that.
    forced_apart: Option<bool>,
    /// Attention asked since [`Variants::joins_during`] began.
    attention: bool,
    /// Products that were asked for since [`Variants::listen`], with their possible variants.
    heard: Option<Vec<(Product, Vec<Variant>)>>,
}

impl Variants {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way of a product of which `ways` are possible, the first unless another was chosen.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(&self, product: Product, ways: &[Way]) -> Way {
        let mut state = self.state();
        let wanted = state.forced.or_else(|| state.chosen.get(&product).copied()).unwrap_or_default();
        if let Some(heard) = &mut state.heard
            && heard.iter().all(|(known, _)| *known != product)
        {
            heard.push((product, ways[1..].iter().map(|way| way.variant).collect()));
        }
        *ways.iter().find(|way| way.variant == wanted).unwrap_or(&ways[0])
    }

    /// Whether attention's splits are joined by a launch of their own.
    pub fn joins_apart(&self) -> bool {
        let mut state = self.state();
        state.attention = true;
        state.forced_apart.or(state.apart).unwrap_or(false)
    }

    /// Joins them so whatever was measured; None: as it was.
    pub fn force_joining(&self, apart: Option<bool>) {
        self.state().forced_apart = apart;
    }

    /// From now on joins them so.
    pub fn join_apart(&self, apart: bool) {
        self.state().apart = Some(apart);
    }

    /// Whether `body` had splits to join and nobody decided how.
    pub fn joins_during<T>(&self, body: impl FnOnce() -> T) -> (T, bool) {
        self.state().attention = false;
        let result = body();
        let state = self.state();
        (result, state.attention && state.apart.is_none())
    }

    /// Takes `variant` for every product of which it is possible; None: what was chosen.
    pub fn force(&self, variant: Option<Variant>) {
        self.state().forced = variant;
    }

    /// Whether what is chosen counts.
    pub fn is_forced(&self) -> bool {
        let state = self.state();
        state.forced.is_some() || state.forced_apart.is_some()
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
        heard.retain(|(product, others)| !others.is_empty() && !state.chosen.contains_key(product));
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
        let way = |variant| Way { variant, kernel: "linear", shared: 0, slots: 1, blocks: 1, ring: 0 };
        let (first, deep, ring) =
            (way(Variant::Registers), way(Variant::Deep), way(Variant::Ring { groups: 4, blocks: 1 }));
        let variants = Variants::default();
        let of = |ways: &[Way]| variants.of(product.clone(), ways);
        assert_eq!(of(&[first, deep, ring]), first);
        let (taken, heard) = variants.heard_during(|| (of(&[first, ring]), of(&[first, ring])));
        assert_eq!(taken, (first, first));
        assert_eq!(heard, [(product.clone(), vec![ring.variant])]);
        variants.choose(&product, deep.variant);
        assert_eq!((of(&[first, deep, ring]), of(&[first, ring])), (deep, first));
        assert_eq!(variants.heard_during(|| of(&[first, ring])).1, [], "it was chosen for");
        variants.force(Some(ring.variant));
        assert_eq!((of(&[first, deep, ring]), of(&[first])), (ring, first));
    }
}
