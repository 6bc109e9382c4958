//! What a new settings file says: the built-in model, on this machine only.

use super::types::{Profile, SamplingDefaults, Settings};

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            model: hearth_hub::EMBER.into(),
            context: None,
            max_requests: 4,
            kv: "bf16".into(),
            mtp_depth: "auto".into(),
            draft_head: "full".into(),
            draft_vocabulary: None,
            exact: false,
            fp4_activations: false,
            max_waiting: 64,
            chunk: 512,
            prefix_disk_gib: None,
            sampling: SamplingDefaults::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            host: "127.0.0.1".into(),
            port: 8000,
            start_engine: false,
            profile: Profile::default(),
            memory_reserve: None,
            theme: "system".into(),
            language: "system".into(),
            prices: None,
            keep_chats: true,
            model_folders: Vec::new(),
        }
    }
}
