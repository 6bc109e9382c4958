//! Writes invented weights as a checkpoint folder, so that reading one from disk can be measured and tested: the trunk, in
//! ModelOpt's layout, in shards. `hearth bench --synthetic .. --save` calls it.

use super::Synthetic;
use crate::ModelError;
use crate::family::{self, Place};
use crate::parts;
use crate::source::WeightSource;
use hearth_checkpoint::LinearFormat;
use hearth_kernels::{Fp8Scales, Nvfp4Global, Values};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes after which a new shard begins.
const SHARD: u64 = 4 << 30;

/// A tensor to write.
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
    from: From,
}

/// Where its bytes come from.
enum From {
    /// Numbers of a matrix: module, rows, columns.
    Numbers(String, usize, usize),
    /// Its NVFP4 block scales.
    BlockScales(String, usize, usize),
    /// Its one f32 scale.
    Scale(String, usize, usize),
    /// A tensor of f32.
    Dense(String, Vec<usize>),
}

/// The module name without the part that ModelOpt's entries for experts leave out.
fn listed(module: &str) -> &str {
    module.split_once(".experts.").map_or(module, |(layer, _)| &module[..layer.len() + ".experts".len()])
}

impl Synthetic {
    /// Writes the trunk into `folder`, which is made if need be: shards, index, `config.json`, `hf_quant_config.json`.
    /// Returns the bytes of all shards.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for a recipe with FP8 in blocks; [`ModelError::Save`] if a file cannot be written: what
    /// is half written has the ending `.incomplete`.
    pub fn save(&self, folder: &Path) -> Result<u64, ModelError> {
        let (entries, quantised) = self.entries()?;
        let failed = |path: &Path, e: std::io::Error| ModelError::Save {
            path: path.display().to_string(),
            reason: e.to_string(),
        };
        fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
        let mut shards: Vec<Vec<&Entry>> = vec![Vec::new()];
        let mut filled = 0;
        for entry in &entries {
            if filled > 0 && filled + entry.bytes > SHARD {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += entry.bytes;
            shards.last_mut().expect("there is one").push(entry);
        }
        let mut places = Map::new();
        for (i, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
            let path = folder.join(&name);
            self.write_shard(&path, shard)?;
            places.extend(shard.iter().map(|entry| (entry.name.clone(), json!(name))));
        }
        let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let mut config = self.config.clone();
        config["mtp_num_hidden_layers"] = json!(0);
        let quantization = json!({
            "producer": { "name": "hearth", "version": env!("CARGO_PKG_VERSION") },
            "quantization": { "quant_algo": "MIXED_PRECISION", "exclude_modules": [], "quantized_layers": quantised },
        });
        let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
        let mut files = vec![("model.safetensors.index.json", index), ("config.json", config)];
        if quantization["quantization"]["quantized_layers"]
            .as_object()
            .is_some_and(|layers| !layers.is_empty())
        {
            files.push(("hf_quant_config.json", quantization));
        }
        for (name, value) in files {
            let path = folder.join(name);
            fs::write(&path, format!("{value:#}\n")).map_err(|e| failed(&path, e))?;
        }
        Ok(total)
    }

    /// What is written, in the order in which it is loaded, and ModelOpt's list of quantised layers.
    fn entries(&self) -> Result<(Vec<Entry>, Map<String, Value>), ModelError> {
        let (spec, names) = (self.spec(), family::names(self.spec()));
        let mut entries = Vec::new();
        let mut quantised = Map::new();
        let mut matrix = |module: String, rows: usize, cols: usize| -> Result<(), ModelError> {
            let from = || (module.clone(), rows, cols);
            let mut add = |suffix: &str, dtype, shape: Vec<usize>, size: u64, from: From| {
                let bytes = shape.iter().map(|n| *n as u64).product::<u64>() * size;
                entries.push(Entry { name: format!("{module}.{suffix}"), dtype, shape, bytes, from });
            };
            let ((m, r, c), algorithm) = match self.recipe.of(&module) {
                LinearFormat::Nvfp4 => {
                    let (m, r, c) = from();
                    add("weight", "U8", vec![rows, cols / 2], 1, From::Numbers(m, r, c));
                    let (m, r, c) = from();
                    add("weight_scale", "F8_E4M3", vec![rows, cols / 16], 1, From::BlockScales(m, r, c));
                    (
                        from(),
                        Some(("weight_scale_2", json!({ "quant_algo": "W4A16_NVFP4", "group_size": 16 }))),
                    )
                }
                LinearFormat::Fp8Tensor => {
                    let (m, r, c) = from();
                    add("weight", "F8_E4M3", vec![rows, cols], 1, From::Numbers(m, r, c));
                    (from(), Some(("weight_scale", json!({ "quant_algo": "FP8" }))))
                }
                LinearFormat::Bf16 => (from(), None),
                other => {
                    return Err(ModelError::Unsupported {
                        feature: "saving a recipe with FP8 in rows or blocks".into(),
                        found: format!("{other:?}"),
                    });
                }
            };
            match algorithm {
                Some((suffix, algorithm)) => {
                    add(suffix, "F32", vec![], 4, From::Scale(m, r, c));
                    quantised.insert(listed(&module).to_owned(), algorithm);
                }
                None => add("weight", "BF16", vec![rows, cols], 2, From::Numbers(m, r, c)),
            }
            Ok(())
        };
        matrix(names.embedding(), spec.vocab, spec.hidden)?;
        let mut vectors = vec![(names.final_norm(), vec![spec.hidden])];
        for (i, layer) in spec.layers.iter().enumerate() {
            let place = Place::Layer(i);
            for m in parts::matrices(layer, spec.hidden) {
                for copy in 0..m.copies {
                    matrix(names.matrix(place, m.matrix, copy), m.rows, m.cols)?;
                }
            }
            let of_layer = parts::vectors(layer, spec.hidden).into_iter();
            vectors.extend(of_layer.map(|(vector, shape)| (names.vector(place, vector), shape)));
        }
        if !spec.tied_head {
            matrix(names.head(), spec.vocab, spec.hidden)?;
        }
        for (name, shape) in vectors {
            let bytes = 4 * shape.iter().product::<usize>() as u64;
            let from = From::Dense(name.clone(), shape.clone());
            entries.push(Entry { name, dtype: "F32", shape, bytes, from });
        }
        Ok((entries, quantised))
    }

    /// One safetensors file: length of the header, header, bytes.
    fn write_shard(&self, path: &Path, shard: &[&Entry]) -> Result<(), ModelError> {
        let mut header = Map::new();
        let mut at = 0;
        for entry in shard {
            let offsets = [at, at + entry.bytes];
            header.insert(
                entry.name.clone(),
                json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets }),
            );
            at += entry.bytes;
        }
        let mut header = Value::Object(header).to_string();
        // Numbers begin at a multiple of 8 bytes.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let half = path.with_extension("safetensors.incomplete");
        let failed =
            |e: std::io::Error| ModelError::Save { path: half.display().to_string(), reason: e.to_string() };
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&half).map_err(failed)?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        for entry in shard {
            self.write_bytes(entry, &mut |bytes| file.write_all(bytes).map_err(failed))?;
        }
        file.flush().map_err(failed)?;
        drop(file);
        fs::rename(&half, path).map_err(failed)
    }

    fn write_bytes(
        &self,
        entry: &Entry,
        write: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        match &entry.from {
            From::Dense(name, shape) => write(&self.dense(name, shape)?.bytes),
            From::Numbers(module, rows, cols) => match self.linear(module, *rows, *cols)?.packed().values {
                Values::F32(bytes) | Values::F16(bytes) | Values::Bf16(bytes) => write(bytes),
                Values::Fp8 { codes, .. } => write(codes),
                Values::Nvfp4 { nibbles, .. } => write(nibbles),
            },
            From::BlockScales(module, rows, cols) => match self.linear(module, *rows, *cols)?.packed().values
            {
                Values::Nvfp4 { scales, .. } => write(scales),
                _ => Ok(()),
            },
            From::Scale(module, rows, cols) => match self.linear(module, *rows, *cols)?.packed().values {
                Values::Nvfp4 { global: Nvfp4Global::Multiply(scale), .. }
                | Values::Fp8 { scales: Fp8Scales::Tensor(scale), .. } => write(&scale.to_le_bytes()),
                _ => Ok(()),
            },
        }
    }
}
