//! The files of `ember`, the model that ships in the binary, so that Hearth does its whole job with no network.
//! Used by `Checkpoint::builtin`.

/// Its name in answers and settings.
pub(crate) const NAME: &str = "ember";

macro_rules! embedded {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/ember/model/", $file)))),*]
    };
}

/// Every file of the folder.
pub(crate) const FILES: &[(&str, &[u8])] = embedded![
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];
