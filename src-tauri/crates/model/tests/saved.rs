//! Invented weights that are written as a checkpoint read back as the same model.

use hearth_checkpoint::Checkpoint;
use hearth_kernels::cpu::Cpu;
use hearth_kernels::ops::{Pass, Segment};
use hearth_model::synthetic::Synthetic;
use hearth_model::{LoadOptions, Model, ModelError, WeightSource};
use std::sync::Arc;

fn logits(source: &dyn WeightSource) -> Vec<f32> {
    let ops = Arc::new(Cpu::new(Some(1)).expect("a thread"));
    let options = LoadOptions { context: 64, max_rows: 8, ..LoadOptions::default() };
    let mut model = Model::load(source, ops, options, &mut |_| {}).expect("it loads");
    let segment = Segment { slot: 0, first_row: 0, rows: 3, position: 0, pages: vec![0], snapshots: vec![] };
    let pass = Pass { segments: vec![segment], exact: false };
    model.forward(&pass, &[5, 17, 300], &[0, 1, 2]).expect("it runs").values
}

#[test]
fn a_saved_shape_is_the_same_model_in_every_recipe_that_can_be_saved() {
    for recipe in ["nvfp4", "nvfp4-bf16", "nvfp4-mixed", "bf16"] {
        let source = Synthetic::named(&format!("tiny:{recipe}")).expect("a known shape");
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = source.save(folder.path()).expect("it can be written");
        let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
        assert!(bytes > 100_000, "{recipe}: {bytes}");
        assert_eq!(logits(&checkpoint), logits(&source), "{recipe}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_with_the_reason() {
    let source = Synthetic::named("tiny:fp8").expect("a known shape");
    let folder = tempfile::tempdir().expect("a folder");
    let error = source.save(folder.path()).expect_err("blocks have no layout here");
    assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("it can be written");
    let source = Synthetic::named("tiny").expect("a known shape");
    let error = source.save(&file.join("under")).expect_err("a file is no folder");
    assert!(error.to_string().contains("could not be written"), "{error}");
}
