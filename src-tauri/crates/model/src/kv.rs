//! How keys and values are kept: one type for all layers, and others for some of them. Named on the command line and in
//! profiles as `TYPE[:PLACE=TYPE]...`, for example `nvfp4:ends=bf16`.

use crate::ModelError;
use crate::family::Place;
use crate::spec::{Layer, Mixer, ModelSpec};
use hearth_kernels::ops::KvFormat;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How keys and values of a layer are kept. Fewer bytes make long contexts faster and round more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// bfloat16.
    #[default]
    Bf16,
    /// IEEE binary32: twice the bytes, no rounding.
    F32,
    /// E4M3 without a scale: half of bfloat16's bytes.
    Fp8,
    /// E2M1 with a scale per 16 numbers: 9/32 of bfloat16's bytes. Head sizes that are multiples of 16 only.
    Nvfp4,
}

impl KvType {
    /// All of them, as the command line names them.
    pub const ALL: [KvType; 4] = [KvType::Bf16, KvType::F32, KvType::Fp8, KvType::Nvfp4];

    /// The kernels' name of it.
    pub fn format(self) -> KvFormat {
        match self {
            KvType::Bf16 => KvFormat::Bf16,
            KvType::F32 => KvFormat::F32,
            KvType::Fp8 => KvFormat::Fp8,
            KvType::Nvfp4 => KvFormat::Nvfp4,
        }
    }

    /// The word used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            KvType::Bf16 => "bf16",
            KvType::F32 => "f32",
            KvType::Fp8 => "fp8",
            KvType::Nvfp4 => "nvfp4",
        }
    }

    /// Bytes of one token's keys and values in a layer.
    pub(crate) fn bytes(self, layer: &Layer) -> u64 {
        match &layer.mixer {
            Mixer::FullAttention(a) => 2 * (a.kv_heads * self.format().bytes(a.head_dim)) as u64,
            Mixer::GatedDeltaNet(_) => 0,
        }
    }
}

impl FromStr for KvType {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        KvType::ALL.into_iter().find(|kv| kv.name() == text).ok_or_else(|| ModelError::Option {
            option: "kv",
            expected: "bf16, f32, fp8 or nvfp4".to_owned(),
            found: text.chars().take(40).collect(),
        })
    }
}

/// Layers whose type is named by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPlace {
    /// The first and the last attention layer, which lose most by rounding.
    Ends,
    /// The first attention layer.
    First,
    /// The last attention layer of the trunk.
    Last,
    /// The MTP head's layer.
    Mtp,
    /// The layer of this number, counted from 0 over all layers.
    Layer(usize),
}

impl fmt::Display for KvPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvPlace::Ends => f.write_str("ends"),
            KvPlace::First => f.write_str("first"),
            KvPlace::Last => f.write_str("last"),
            KvPlace::Mtp => f.write_str("mtp"),
            KvPlace::Layer(number) => write!(f, "{number}"),
        }
    }
}

impl FromStr for KvPlace {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let named = [KvPlace::Ends, KvPlace::First, KvPlace::Last, KvPlace::Mtp];
        let named = named.into_iter().find(|place| place.to_string() == text);
        let number = || text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        named.or_else(|| number().map(KvPlace::Layer)).ok_or_else(|| ModelError::Option {
            option: "kv",
            expected: "TYPE:PLACE=TYPE with `ends`, `first`, `last`, `mtp` or the number of a layer as PLACE"
                .to_owned(),
            found: text.chars().take(40).collect(),
        })
    }
}

/// The types of all layers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KvTypes {
    /// Of every layer that is not named below.
    pub rest: KvType,
    /// Layers with a type of their own; where two name one layer, the later counts.
    pub named: Vec<(KvPlace, KvType)>,
}

impl From<KvType> for KvTypes {
    fn from(rest: KvType) -> KvTypes {
        KvTypes { rest, named: Vec::new() }
    }
}

impl fmt::Display for KvTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rest.name())?;
        self.named.iter().try_for_each(|(place, kv)| write!(f, ":{place}={}", kv.name()))
    }
}

impl FromStr for KvTypes {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let mut words = text.split(':');
        let mut kv = KvTypes::from(words.next().unwrap_or_default().parse::<KvType>()?);
        for word in words {
            let (place, of) = word.split_once('=').ok_or_else(|| ModelError::Option {
                option: "kv",
                expected: "a type such as fp8, then PLACE=TYPE such as ends=bf16, with colons between"
                    .to_owned(),
                found: text.chars().take(80).collect(),
            })?;
            kv.named.push((place.parse()?, of.parse()?));
        }
        Ok(kv)
    }
}

impl KvTypes {
    /// The type of a layer.
    pub fn of(&self, spec: &ModelSpec, place: Place) -> KvType {
        let (first, last) = (attention(spec).next(), attention(spec).next_back());
        let meant = |named: &KvPlace| match (named, place) {
            (KvPlace::Ends, Place::Layer(i)) => Some(i) == first || Some(i) == last,
            (KvPlace::First, Place::Layer(i)) => Some(i) == first,
            (KvPlace::Last, Place::Layer(i)) => Some(i) == last,
            (KvPlace::Layer(number), Place::Layer(i)) => *number == i,
            (KvPlace::Mtp, Place::Mtp) => true,
            _ => false,
        };
        self.named.iter().rev().find(|(named, _)| meant(named)).map_or(self.rest, |(_, kv)| *kv)
    }

    /// Refuses layers that have no keys, and heads that a type cannot keep.
    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<(), ModelError> {
        for (place, _) in &self.named {
            if let KvPlace::Layer(number) = place
                && !attention(spec).any(|i| i == *number)
            {
                let all: Vec<String> = attention(spec).map(|i| i.to_string()).collect();
                return Err(ModelError::Option {
                    option: "kv",
                    expected: format!("the number of an attention layer: {}", all.join(", ")),
                    found: number.to_string(),
                });
            }
        }
        let trunk = spec.layers.iter().enumerate().map(|(i, layer)| (Place::Layer(i), layer));
        for (place, layer) in trunk.chain(spec.mtp.iter().map(|mtp| (Place::Mtp, &mtp.layer))) {
            let kv = self.of(spec, place);
            if let Mixer::FullAttention(a) = &layer.mixer
                && kv.format().check("kv", a.head_dim).is_err()
            {
                return Err(ModelError::Option {
                    option: "kv",
                    expected: format!(
                        "bf16, f32 or fp8 for heads of {}: nvfp4 needs a multiple of 16",
                        a.head_dim
                    ),
                    found: kv.name().to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The numbers of the layers that keep keys and values.
fn attention(spec: &ModelSpec) -> impl DoubleEndedIterator<Item = usize> {
    let keeps = |(_, layer): &(usize, &Layer)| matches!(layer.mixer, Mixer::FullAttention(_));
    spec.layers.iter().enumerate().filter(keeps).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Synthetic;

    fn of(text: &str) -> KvTypes {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_type_alone_is_that_of_every_layer_and_places_differ_from_it() {
        let source = Synthetic::named("qwen3.6-35b-a3b").expect("a known shape");
        let spec = source.spec();
        let types = |text: &str, places: &[Place]| -> Vec<&'static str> {
            places.iter().map(|place| of(text).of(spec, *place).name()).collect()
        };
        // Attention is every fourth layer: 3, 7, ... 39.
        let places = [Place::Layer(3), Place::Layer(7), Place::Layer(39), Place::Mtp];
        assert_eq!(types("fp8", &places), ["fp8"; 4]);
        assert_eq!(types("nvfp4:ends=bf16", &places), ["bf16", "nvfp4", "bf16", "nvfp4"]);
        assert_eq!(types("fp8:first=f32:mtp=bf16", &places), ["f32", "fp8", "fp8", "bf16"]);
        assert_eq!(types("nvfp4:last=fp8:7=bf16", &places), ["nvfp4", "bf16", "fp8", "nvfp4"]);
        assert_eq!(
            types("nvfp4:ends=bf16:39=fp8", &places),
            ["bf16", "nvfp4", "fp8", "nvfp4"],
            "the later counts"
        );
        of("fp8:3=bf16:39=bf16").check(spec).expect("both are attention layers");
        let error = of("fp8:4=bf16").check(spec).expect_err("4 is a delta net").to_string();
        assert!(error.contains("3, 7, 11") && error.contains("found 4"), "{error}");
    }

    #[test]
    fn what_is_printed_is_read_again_and_nonsense_is_refused() {
        for text in ["bf16", "nvfp4:ends=bf16", "fp8:first=f32:last=bf16:mtp=nvfp4:12=bf16"] {
            assert_eq!(of(text).to_string(), text);
        }
        for wrong in [
            "",
            "fp9",
            "fp8:",
            "fp8:ends",
            "fp8:ends=",
            "fp8:=bf16",
            "fp8:middle=bf16",
            "fp8:-1=bf16",
            "fp8:+3=bf16",
            "ends=bf16",
            "fp8,ends=bf16",
            "fp8:ends=bf16:",
            "fp8:3=",
            "BF16",
            "fp8: ends=bf16",
        ] {
            let error = wrong.parse::<KvTypes>().expect_err(wrong);
            assert_eq!(error.code(), "model_option_invalid");
        }
    }
}
