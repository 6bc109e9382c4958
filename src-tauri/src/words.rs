//! What the tray and the waiting page say, in both languages of the window: the setting of the appliance decides, or, where it says
//! `system` or cannot be read, the language of the session.

/// A language that Hearth speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    #[default]
    English,
    German,
}

impl Language {
    /// `en`, `de`, or `system`: as the session's variables say, in the order in which gettext asks them.
    pub fn of(setting: &str, variable: impl Fn(&str) -> Option<String>) -> Language {
        match setting {
            "en" => return Language::English,
            "de" => return Language::German,
            _ => {}
        }
        let said = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .iter()
            .find_map(|name| variable(name).filter(|v| !v.is_empty()));
        // A list of wishes counts only where there is a language at all.
        let locale = said.filter(|locale| locale != "C" && locale != "POSIX");
        let wishes = locale.as_ref().and_then(|_| variable("LANGUAGE")).filter(|wishes| !wishes.is_empty());
        let first = wishes.or(locale).unwrap_or_default();
        match first.starts_with("de") {
            true => Language::German,
            false => Language::English,
        }
    }

    /// The same with this process's own variables.
    pub fn here(setting: &str) -> Language {
        Language::of(setting, |name| std::env::var(name).ok())
    }

    /// The language's words.
    pub fn words(self) -> &'static Words {
        match self {
            Language::English => &ENGLISH,
            Language::German => &GERMAN,
        }
    }

    /// For the page: `en` or `de`.
    pub fn code(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::German => "de",
        }
    }
}

/// Every text; `{}` is the model's name.
pub struct Words {
    pub not_connected: &'static str,
    pub no_model: &'static str,
    /// Where a model's name is not known.
    pub the_model: &'static str,
    pub stopped: &'static str,
    pub loading: &'static str,
    pub serving: &'static str,
    pub stopping: &'static str,
    pub restarting: &'static str,
    /// Something is wrong while it serves; None: the fault says it itself.
    pub degraded: Option<&'static str>,
    /// Given up; None: the fault says it itself.
    pub failed: Option<&'static str>,
    pub start: &'static str,
    pub stop: &'static str,
    pub open: &'static str,
    pub browser: &'static str,
    pub leave: &'static str,
    pub quit_and_stop: &'static str,
    pub quit_and_leave: &'static str,
}

const ENGLISH: Words = Words {
    not_connected: "Not connected",
    no_model: "No model chosen",
    the_model: "the model",
    stopped: "Stopped: {}",
    loading: "Loading {}",
    serving: "Serving {}",
    stopping: "Stopping {}",
    restarting: "Restarting {}",
    degraded: None,
    failed: None,
    start: "Start the model",
    stop: "Stop the model",
    open: "Open Hearth",
    browser: "Open in the browser",
    leave: "Quit and keep serving",
    quit_and_stop: "Quit and stop Hearth",
    quit_and_leave: "Quit; Hearth goes on",
};

// The faults' sentences are the window's to translate; the tray says in a word what is the matter, and the window the rest.
const GERMAN: Words = Words {
    not_connected: "Nicht verbunden",
    no_model: "Kein Modell gewählt",
    the_model: "das Modell",
    stopped: "Gestoppt: {}",
    loading: "Lädt: {}",
    serving: "Bereit: {}",
    stopping: "Hält an: {}",
    restarting: "Startet neu: {}",
    degraded: Some("Eingeschränkt: {}; das Fenster sagt, warum"),
    failed: Some("Fehler: {}; das Fenster sagt, warum"),
    start: "Modell starten",
    stop: "Modell anhalten",
    open: "Hearth öffnen",
    browser: "Im Browser öffnen",
    leave: "Beenden, Modell läuft weiter",
    quit_and_stop: "Beenden und Hearth anhalten",
    quit_and_leave: "Beenden; Hearth läuft weiter",
};

impl Words {
    /// A text about a model.
    pub fn about(&self, text: &str, model: Option<&str>) -> String {
        text.replace("{}", model.unwrap_or(self.the_model))
    }

    /// What quitting ends: an appliance that systemd or a person started is not the window's to stop.
    pub fn quit(&self, keeps: bool) -> &'static str {
        if keeps { self.quit_and_stop } else { self.quit_and_leave }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(setting: &str, variables: &[(&str, &str)]) -> Language {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Language::of(setting, find)
    }

    #[test]
    fn the_setting_decides_and_without_one_the_session() {
        let german = [("LANG", "de_AT.UTF-8")];
        assert_eq!(of("en", &german), Language::English);
        assert_eq!(of("de", &[]), Language::German);
        assert_eq!(of("system", &german), Language::German);
        assert_eq!(of("system", &[("LANG", "en_GB.UTF-8"), ("LC_ALL", "de_DE.UTF-8")]), Language::German);
        assert_eq!(of("system", &[("LANG", "en_GB.UTF-8"), ("LANGUAGE", "de:en")]), Language::German);
        assert_eq!(of("system", &[("LANG", "C"), ("LANGUAGE", "de")]), Language::English);
        assert_eq!(of("system", &[("LANG", "fr_FR.UTF-8")]), Language::English);
        assert_eq!(of("", &[]), Language::English);
    }
}
