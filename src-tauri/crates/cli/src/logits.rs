//! `hearth logits`: the raw logits of any token list as a safetensors file, the way anyone checks Hearth against
//! another engine. No sampling, no template, no tokenizer.

mod file;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, bail, ensure};
use file::{Plan, TensorFile};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::{
    Device,
    ops::{Pass, Segment},
};
use hearth_model::{KvTypes, LoadOptions, Model, Seed, family};

use crate::open::{open, with_next_step};

/// Options of `hearth logits`.
#[derive(clap::Args)]
pub struct Args {
    /// `ember`, a folder, a GGUF file, or a Hugging Face id in the cache.
    model: String,
    /// Token ids, separated by commas; @FILE reads them from a file.
    #[arg(long, value_name = "ID,ID,...", allow_hyphen_values = true)]
    ids: String,
    /// Rows computed at once.
    #[arg(long, default_value_t = 512, value_name = "N")]
    chunk: usize,
    /// The context the model is loaded for; default: as many tokens as there are ids. More than the model's own, up to four
    /// times, stretches its positions (YaRN), as `hearth serve --context` does.
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Where to compute.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda|emulated")]
    device: String,
    /// How keys and values are kept: bf16, f32, fp8 or nvfp4, and which layers differ, as for `hearth serve`.
    #[arg(long, default_value = "f32", value_name = "TYPE[:PLACE=TYPE]...")]
    kv: String,
    /// Also write `mtp.logits`, the MTP head run over the ids shifted by one, and `mtp.input_ids`. The token after the
    /// last one is the most likely one.
    #[arg(long)]
    mtp: bool,
    /// Compute prefill with the arithmetic of decoding.
    #[arg(long)]
    exact: bool,
    /// Compute prefill with activations rounded to NVFP4 wherever weights are: on the FP4 tensor cores of a GB10, or by
    /// their definition on the CPU, to see what that changes. Chunks of 16 rows or fewer are not rounded.
    #[arg(long, conflicts_with = "exact")]
    fp4_activations: bool,
    /// The safetensors file to write: `input_ids` [T] and `logits` [T, vocab] f32.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Computes and writes; prints one line, or JSON.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let done = compute(&args)?;
    let seconds = started.elapsed().as_secs_f64();
    if json {
        let report = serde_json::json!({
            "model": done.model, "tokens": done.tokens, "vocab": done.vocab, "mtp": args.mtp,
            "device": done.device, "out": args.out, "seconds": seconds,
        });
        println!("{report}");
    } else {
        let (tokens, vocab, out) = (done.tokens, done.vocab, args.out.display());
        println!("{}: logits [{tokens}, {vocab}] in {seconds:.1} s, written to {out}", done.model);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Done {
    model: String,
    tokens: usize,
    vocab: usize,
    device: &'static str,
}

fn compute(args: &Args) -> anyhow::Result<Done> {
    let ids = match args.ids.strip_prefix('@') {
        Some(file) => {
            parse_ids(&std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?)?
        }
        None => parse_ids(&args.ids)?,
    };
    let device: Device = args.device.parse()?;
    ensure!(args.chunk > 0, "--chunk should be at least 1, found 0");
    let kv: KvTypes = args.kv.parse().map_err(with_next_step)?;

    let checkpoint = open(&args.model)?;
    let spec = family::read(checkpoint.config()).map_err(with_next_step)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= spec.vocab) {
        bail!("token id {id} is beyond the vocabulary of {}, 0 to {}", checkpoint.name(), spec.vocab - 1);
    }
    // Positions are never stretched unasked.
    let context = args.context.unwrap_or(spec.context);
    ensure!(
        ids.len() <= context,
        "{} token ids are more than the context of {}, {context}; a longer one is asked for with --context",
        ids.len(),
        checkpoint.name(),
    );
    if let Some(factor) = spec.stretch(context).map_err(with_next_step)? {
        eprintln!(
            "hearth: YaRN is on: the model was trained for {} tokens, and its positions are stretched {factor} times.",
            spec.context
        );
    }
    let options = LoadOptions {
        // Without stretching, room for the ids is enough.
        context: args.context.unwrap_or(ids.len()),
        slots: 1,
        snapshots: 0,
        kv,
        mtp: args.mtp,
        draft_head: Default::default(),
        exact: args.exact,
        max_rows: args.chunk.min(ids.len()),
        memory_limit: None,
        tune: false,
    };
    let ops = device.open(None)?.ops;
    ops.set_fp4_activations(args.fp4_activations)?;
    let device = ops.device();
    // The place of the file is tried before the weights are read.
    let file = create(args, device, &checkpoint, ids.len(), spec.vocab)?;
    let mut model = Model::load(&checkpoint, ops, options, &mut |_| {}).map_err(with_next_step)?;
    ensure!(
        !args.mtp || model.spec().mtp.is_some(),
        "{} has no MTP head (no `mtp.*` tensors); run without --mtp",
        checkpoint.name()
    );
    write_logits(&mut model, &ids, args, &file)?;
    file.finish(&args.out)?;
    Ok(Done { model: checkpoint.name().to_owned(), tokens: ids.len(), vocab: spec.vocab, device })
}

fn write_logits(model: &mut Model, ids: &[u32], args: &Args, file: &TensorFile) -> anyhow::Result<()> {
    file.write("input_ids", 0, &id_bytes(ids))?;
    let pages: Vec<u32> = (0..model.pages() as u32).collect();
    let chunk = model.options().max_rows;
    for (i, part) in ids.chunks(chunk).enumerate() {
        let first = i * chunk;
        let segment = Segment {
            slot: 0,
            first_row: 0,
            rows: part.len(),
            position: first,
            pages: pages.clone(),
            snapshots: vec![],
        };
        let pass = Pass { segments: vec![segment], exact: args.exact };
        let rows: Vec<u32> = (0..part.len() as u32).collect();
        let logits = model.forward(&pass, part, &rows).map_err(with_next_step)?;
        file.write("logits", first, &float_bytes(&logits.values))?;
        if args.mtp {
            let after = ids.get(first + part.len()).copied();
            let after = after.unwrap_or_else(|| most_likely(logits.row(part.len() - 1)));
            let mut next = part[1..].to_vec();
            next.push(after);
            let drafted =
                model.forward_mtp(&pass, &next, Seed::Forward(&rows), &rows).map_err(with_next_step)?;
            file.write("mtp.input_ids", first, &id_bytes(&next))?;
            file.write("mtp.logits", first, &float_bytes(&drafted.values))?;
        }
    }
    Ok(())
}

fn create(
    args: &Args,
    device: &str,
    checkpoint: &Checkpoint,
    tokens: usize,
    vocab: usize,
) -> anyhow::Result<TensorFile> {
    let ids = |name| Plan { name, dtype: "I64", shape: vec![tokens], element: 8 };
    let logits = |name| Plan { name, dtype: "F32", shape: vec![tokens, vocab], element: 4 };
    let mut plan = vec![ids("input_ids"), logits("logits")];
    if args.mtp {
        plan.extend([ids("mtp.input_ids"), logits("mtp.logits")]);
    }
    let metadata = serde_json::json!({
        "format": "pt",
        "engine": concat!("hearth ", env!("CARGO_PKG_VERSION")),
        "model": checkpoint.name(),
        "device": device,
        "kv": args.kv,
        "chunk": args.chunk.to_string(),
        "exact": args.exact.to_string(), "fp4_activations": args.fp4_activations.to_string(),
    });
    TensorFile::create(&args.out, &metadata, &plan)
}

fn parse_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    ensure!(!text.trim().is_empty(), "--ids should be a list of token ids such as 1,2,3, found an empty one");
    let parse = |part: &str| {
        let shown: String = part.chars().take(40).collect();
        part.trim()
            .parse()
            .with_context(|| format!("--ids should be numbers separated by commas, found {shown:?}"))
    };
    text.trim().split(',').map(parse).collect()
}

fn most_likely(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}

fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn id_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use std::path::Path;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/fixtures/");

    fn args(model: &str, ids: &str, out: &Path) -> Args {
        Args {
            model: model.into(),
            ids: ids.into(),
            chunk: 512,
            device: "cpu".into(),
            kv: "f32".into(),
            context: None,
            mtp: false,
            exact: false,
            fp4_activations: false,
            out: out.into(),
        }
    }

    fn floats(file: &Path, name: &str) -> Vec<f32> {
        let bytes = std::fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// The sentence of a refusal; the output folder must be as empty as before.
    #[track_caller]
    fn refusal(change: impl FnOnce(&mut Args)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(&format!("{FIXTURES}qwen3_5"), "1,2,3", &folder.path().join("out.safetensors"));
        change(&mut args);
        let sentence = format!("{:#}", compute(&args).unwrap_err());
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        sentence
    }

    #[test]
    fn the_file_holds_the_logits_of_transformers_and_of_the_mtp_head() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = std::path::PathBuf::from(format!("{FIXTURES}qwen3_5/fixture.safetensors"));
        let bytes = std::fs::read(&fixture).unwrap();
        let ids = SafeTensors::deserialize(&bytes).unwrap().tensor("input_ids").unwrap().data().to_vec();
        let ids: Vec<String> =
            ids.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()).to_string()).collect();
        let list = folder.path().join("ids.txt");
        std::fs::write(&list, format!("{}\n", ids.join(","))).unwrap();
        let mut files = Vec::new();
        for (chunk, ids) in [(512, ids.join(",")), (10, format!("@{}", list.display()))] {
            let out = folder.path().join(format!("{chunk}.safetensors"));
            let args = Args { chunk, mtp: true, ..args(&format!("{FIXTURES}qwen3_5"), &ids, &out) };
            assert_eq!(compute(&args).unwrap().tokens, 96);
            files.push(out);
        }
        for name in ["logits", "mtp.logits"] {
            let (ours, theirs) = (floats(&files[0], name), floats(&fixture, name));
            assert_eq!(ours.len(), theirs.len());
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-3), "{name}");
            assert!(ours == floats(&files[1], name), "{name}: chunks of 10 differ");
        }
        let written = std::fs::read(&files[0]).unwrap();
        let tensors = SafeTensors::deserialize(&written).unwrap();
        assert_eq!(tensors.tensor("logits").unwrap().shape(), [96, 512]);
        assert_eq!(tensors.tensor("mtp.input_ids").unwrap().shape(), [96]);
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 3, "no temporary file stays");
    }

    #[test]
    fn the_built_in_model_has_logits_too() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("ember.safetensors");
        let done = compute(&args("ember", "1, 2,3", &out)).unwrap();
        let logits = floats(&out, "logits");
        assert_eq!(logits.len(), 3 * done.vocab);
        assert!(logits.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn a_context_beyond_the_models_own_changes_its_logits_and_lets_longer_prompts_in() {
        let folder = tempfile::tempdir().unwrap();
        let model = format!("{FIXTURES}qwen3_5");
        let with = |name: &str, ids: &str, context| {
            let out = folder.path().join(name);
            compute(&Args { context, ..args(&model, ids, &out) }).unwrap();
            floats(&out, "logits")
        };
        let plain = with("plain", "1,2,3,4", None);
        assert!(with("own", "1,2,3,4", Some(512)) == plain);
        assert!(with("longer", "1,2,3,4", Some(600)) != plain);
        let long = with("long", &vec!["7"; 600].join(","), Some(600));
        assert_eq!(long.len(), 600 * 512);
        assert!(long.iter().all(|logit| logit.is_finite()));
    }

    #[test]
    fn bad_ids_are_refused() {
        assert!(refusal(|a| a.ids = String::new()).contains("empty"));
        assert!(refusal(|a| a.ids = " ".into()).contains("empty"));
        assert!(refusal(|a| a.ids = "1,,2".into()).contains("separated by commas"));
        assert!(refusal(|a| a.ids = "1,two".into()).contains("\"two\""));
        assert!(refusal(|a| a.ids = "@/no/such/file".into()).contains("/no/such/file"));
        assert!(refusal(|a| a.ids = "-1".into()).contains("\"-1\""));
        assert!(refusal(|a| a.ids = "99999999999999999999".into()).contains("separated by commas"));
        let beyond = refusal(|a| a.ids = "1,512".into());
        assert!(beyond.contains("512") && beyond.contains("0 to 511"), "{beyond}");
        let long = refusal(|a| a.ids = vec!["1"; 513].join(","));
        assert!(long.contains("513") && long.contains("512") && long.contains("--context"), "{long}");
        let far = refusal(|a| a.context = Some(2049));
        assert!(far.contains("2048") && far.contains("4 times"), "{far}");
        assert!(refusal(|a| a.context = Some(2)).contains("3 token ids"));
    }

    #[test]
    fn a_model_that_is_not_there_is_refused() {
        assert!(refusal(|a| a.model = "no-such-model".into()).contains("not a model"));
        assert!(refusal(|a| a.model = "/no/such/folder".into()).contains("/no/such/folder"));
        assert!(refusal(|a| a.model = FIXTURES.into()).contains("config.json"));
    }

    #[test]
    fn options_without_meaning_are_refused() {
        assert!(refusal(|a| a.device = "cuda".into()).contains("--device cpu"));
        assert!(refusal(|a| a.device = "abacus".into()).contains("abacus"));
        assert!(refusal(|a| a.kv = "f64".into()).contains("fp8 or nvfp4"));
        assert!(refusal(|a| a.chunk = 0).contains("--chunk"));
        let without = refusal(|a| {
            a.model = format!("{FIXTURES}qwen3_5_moe_nvfp4_ct");
            a.mtp = true;
        });
        assert!(without.contains("no MTP head"), "{without}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused_before_the_work() {
        assert!(refusal(|a| a.out = "/no/such/folder/out".into()).contains("/no/such/folder"));
        assert!(refusal(|a| a.out = std::env::temp_dir()).contains("is a folder"));
        assert!(refusal(|a| a.out = "/proc/out.safetensors".into()).contains("/proc"));
    }

    #[test]
    fn a_failed_run_leaves_an_existing_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.safetensors");
        std::fs::write(&out, "mine").unwrap();
        let args = Args { mtp: true, ..args(&format!("{FIXTURES}qwen3_5_moe_nvfp4_ct"), "1", &out) };
        compute(&args).unwrap_err();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "mine");
    }
}
