//! What is measured: a suite becomes a list of rows, those that cannot be measured here with the reason. Called by the runner.
//! Spark Arena's cells are those of `benchmarking/spark-arena-v2.yaml` in github.com/spark-arena/recipe-registry.

use hearth_engine::{
    Depth,
    depth::MOST,
    status::{EngineModel, Fault},
};

use super::types::{BenchOrder, BenchPart, BenchRow, BenchRowState, BenchSuite, BenchTask, BenchTraffic};
use crate::ApplianceError;

/// How often each is measured if the order does not say.
pub(crate) const REPEATS: u32 = 3;
/// From this prompt on, reading it cold is measured once: it takes minutes, and its spread is small.
pub(crate) const LONG_PROMPT: u32 = 128 * 1024;
/// Turns of a conversation of the part `agent`.
pub(crate) const TURNS: u32 = 6;
/// Tokens of a short prompt: that of clients side by side and of depths.
const SHORT_PROMPT: u32 = 1024;
/// Shortest text that facts are hidden in: five of them and a question have room.
const SHORTEST_TEXT: u32 = 512;
/// The most that an order may ask for.
const MOST_REPEATS: u32 = 20;
const MOST_TOKENS: u32 = 4 << 20;
const MOST_CLIENTS: u32 = 64;
const MOST_VALUES: usize = 16;
const MOST_NOTE: usize = 200;

/// The numbers of a suite.
struct Numbers {
    parts: &'static [BenchPart],
    contexts: &'static [u32],
    outputs: &'static [u32],
    prefill: &'static [u32],
    clients: &'static [u32],
    company_output: u32,
    facts: &'static [u32],
}

const K: u32 = 1024;

/// The parts whose drafting is measured at every depth.
const DEPTH_TRAFFIC: [BenchTraffic; 2] = [BenchTraffic::Text, BenchTraffic::Agent];

fn numbers(suite: BenchSuite) -> Numbers {
    use BenchPart::{Agent, Arena, Company, Contexts, Depths, Facts, Prefill};
    match suite {
        BenchSuite::Quick => Numbers {
            parts: &[Contexts, Prefill, Company, Depths, Agent],
            contexts: &[2 * K, 16 * K],
            outputs: &[200],
            prefill: &[512, 4 * K],
            clients: &[1, 2, 4],
            company_output: 128,
            facts: &[8 * K],
        },
        BenchSuite::Full => Numbers {
            parts: &[Contexts, Prefill, Company, Depths, Agent, Facts],
            contexts: &[16 * K, 128 * K, 256 * K, 512 * K, 1024 * K],
            outputs: &[200, 500, 1000],
            prefill: &[512, 2 * K, 8 * K, 32 * K],
            clients: &[1, 2, 4, 8, 16],
            company_output: 200,
            facts: &[32 * K, 128 * K, 512 * K],
        },
        BenchSuite::Arena => Numbers {
            parts: &[Arena],
            contexts: &[0, 4096, 8192, 16384, 32768, 65535, 100_000],
            outputs: &[128],
            prefill: &[2048],
            clients: &[1, 2, 5, 10],
            company_output: 128,
            facts: &[],
        },
    }
}

/// Refuses an order that makes no sense.
///
/// # Errors
/// `BadSetting` with the field.
pub(crate) fn check(order: &BenchOrder) -> Result<(), ApplianceError> {
    let wrong = |key, problem: String| Err(ApplianceError::BadSetting { key, problem });
    let lists = [
        ("contexts", &order.contexts, if order.suite == BenchSuite::Arena { 0 } else { 64 }, MOST_TOKENS),
        ("outputs", &order.outputs, 2, 100_000),
        ("clients", &order.clients, 1, MOST_CLIENTS),
    ];
    for (key, list, least, most) in lists {
        let Some(list) = list else { continue };
        if list.is_empty() || list.len() > MOST_VALUES {
            return wrong(key, format!("there should be 1 to {MOST_VALUES} values, found {}", list.len()));
        }
        if let Some(value) = list.iter().find(|value| !(least..=most).contains(*value)) {
            return wrong(key, format!("each should be {least} to {most}, found {value}"));
        }
    }
    if let Some(repeats) = order.repeats.filter(|repeats| !(1..=MOST_REPEATS).contains(repeats)) {
        return wrong("repeats", format!("expected 1 to {MOST_REPEATS}, found {repeats}"));
    }
    if order.note.chars().count() > MOST_NOTE {
        return wrong("note", format!("expected at most {MOST_NOTE} characters"));
    }
    let parts = numbers(order.suite).parts;
    if let Some(part) =
        order.parts.iter().find(|part| !parts.contains(part) && order.suite == BenchSuite::Arena)
    {
        return wrong("parts", format!("the suite arena has no part {part:?}"));
    }
    Ok(())
}

/// The rows of an order, for an engine of this kind. `most_context`: the model's own longest context.
pub(crate) fn plan(order: &BenchOrder, engine: &EngineModel, most_context: Option<u32>) -> Vec<BenchRow> {
    let numbers = numbers(order.suite);
    let list = |own: &Option<Vec<u32>>, default: &[u32]| {
        let mut list = own.clone().unwrap_or_else(|| default.to_vec());
        list.sort_unstable();
        list.dedup();
        list
    };
    let contexts = list(&order.contexts, numbers.contexts);
    let outputs = list(&order.outputs, numbers.outputs);
    let clients = list(&order.clients, numbers.clients);
    let limits = Limits { engine, most_context };
    let mut rows = Vec::new();
    let parts = if order.parts.is_empty() { numbers.parts } else { &order.parts };
    for part in parts {
        match part {
            BenchPart::Contexts => {
                let longest = outputs.last().copied().unwrap_or(0);
                for (context, output) in pairs(&contexts, &outputs) {
                    let fault = limits.context(context).or_else(|| limits.request(1, longest));
                    // The prompt has as many tokens as the context says; where that is the engine's own limit, the longest
                    // answer takes its place from them. All answers follow the same prompt.
                    let prompt = context.min(engine.context.saturating_sub(longest)).max(1);
                    rows.push(skip(
                        row(*part, Some(if fault.is_some() { context } else { prompt }), output),
                        fault,
                    ));
                }
            }
            BenchPart::Prefill => {
                for prompt in list(&None, numbers.prefill) {
                    rows.push(skip(row(*part, Some(prompt), 1), limits.request(prompt, 1)));
                }
            }
            BenchPart::Company => {
                let output = numbers.company_output;
                for n in &clients {
                    let prompt = SHORT_PROMPT.min(engine.context / 2);
                    let one = BenchRow { clients: *n, ..row(*part, Some(prompt), output) };
                    rows.push(skip(one, limits.clients(*n).or_else(|| limits.request(prompt, output))));
                }
            }
            BenchPart::Depths => {
                for (traffic, depth) in DEPTH_TRAFFIC.iter().flat_map(|traffic| {
                    (0..=MOST).map(Some).chain([None]).map(move |depth| (*traffic, depth))
                }) {
                    let prompt = SHORT_PROMPT.min(engine.context / 2);
                    let depth = depth.map_or(Depth::Auto, Depth::Fixed);
                    let one = BenchRow {
                        traffic,
                        mtp_depth: Some(depth.to_string()),
                        ..row(*part, (traffic == BenchTraffic::Text).then_some(prompt), 200)
                    };
                    rows.push(skip(one, limits.depth(depth).or_else(|| limits.request(prompt, 200))));
                }
            }
            BenchPart::Agent => {
                for traffic in DEPTH_TRAFFIC {
                    let one = BenchRow { traffic, ..row(*part, None, 200) };
                    rows.push(skip(one, limits.request(TURNS * 400 + 1200, 200)));
                }
            }
            BenchPart::Facts => {
                let texts =
                    if order.contexts.is_some() { contexts.clone() } else { list(&None, numbers.facts) };
                for (context, task) in texts.iter().flat_map(|context| {
                    use BenchTask::{End, Five, Lost, Middle, Start};
                    [Start, Middle, End, Five, Lost].map(|task| (*context, task))
                }) {
                    let output = 256;
                    let fault = limits.context(context).or_else(|| limits.text(context));
                    let prompt = context.min(engine.context.saturating_sub(output)).max(1);
                    let prompt = if fault.is_some() { context } else { prompt };
                    let one = BenchRow {
                        traffic: BenchTraffic::Facts,
                        task: Some(task),
                        ..row(*part, Some(prompt), output)
                    };
                    rows.push(skip(one, fault));
                }
            }
            BenchPart::Arena => {
                for (depth, n) in pairs(&contexts, &clients) {
                    let (prompt, output) = (numbers.prefill[0], outputs[0]);
                    let one =
                        BenchRow { depth_tokens: depth, clients: n, ..row(*part, Some(prompt), output) };
                    // More clients than slots wait for their turn; a cell that fails would spoil a submission.
                    rows.push(skip(one, limits.request(depth + prompt, output)));
                }
            }
        }
    }
    rows
}

fn pairs(a: &[u32], b: &[u32]) -> Vec<(u32, u32)> {
    a.iter().flat_map(|a| b.iter().map(|b| (*a, *b))).collect()
}

fn row(part: BenchPart, prompt: Option<u32>, output: u32) -> BenchRow {
    BenchRow {
        part,
        traffic: BenchTraffic::Text,
        depth_tokens: 0,
        prompt,
        output,
        clients: 1,
        mtp_depth: None,
        task: None,
        state: BenchRowState::Waiting,
        fault: None,
        disturbed: false,
        figures: Vec::new(),
        kept: Vec::new(),
        score: None,
        shots: Vec::new(),
        peaks: Vec::new(),
    }
}

fn skip(row: BenchRow, fault: Option<Fault>) -> BenchRow {
    let state = if fault.is_some() { BenchRowState::Skipped } else { row.state };
    BenchRow { state, fault, ..row }
}

/// What an engine can be asked for.
struct Limits<'a> {
    engine: &'a EngineModel,
    most_context: Option<u32>,
}

impl Limits<'_> {
    /// A context that is to be filled.
    fn context(&self, context: u32) -> Option<Fault> {
        (context > self.engine.context).then(|| self.too_long(context))
    }

    /// A prompt with its answer.
    fn request(&self, prompt: u32, output: u32) -> Option<Fault> {
        let needed = prompt.saturating_add(output);
        (needed > self.engine.context).then(|| self.too_long(needed))
    }

    fn too_long(&self, needed: u32) -> Fault {
        match self.most_context {
            Some(most) if needed > most => Fault::new(
                "over_the_models_context",
                format!("{needed} tokens are more than this model's own context of {most}."),
                "Choose a model with a longer context.",
            )
            .with("needed", needed)
            .with("most", most),
            _ => Fault::new(
                "over_the_context",
                format!(
                    "{needed} tokens are more than the context of {} it was started with.",
                    self.engine.context
                ),
                "Start it with a longer context, if the memory allows.",
            )
            .with("needed", needed)
            .with("context", self.engine.context),
        }
    }

    fn clients(&self, clients: u32) -> Option<Fault> {
        let most = self.engine.max_requests;
        (clients > most).then(|| {
            Fault::new(
                "over_the_requests",
                format!("The profile serves {most} requests at once."),
                "Start it with more requests at once, if the memory allows.",
            )
            .with("most", most)
        })
    }

    fn depth(&self, depth: Depth) -> Option<Fault> {
        let Some(own) = &self.engine.mtp_depth else {
            let text = "This model was started without a head that drafts.";
            return Some(Fault::new(
                "no_drafts",
                text,
                "Choose a model with an MTP head, and a depth other than 0.",
            ));
        };
        let most = own.parse::<Depth>().unwrap_or_default();
        let over = match depth {
            Depth::Fixed(depth) => depth > most.most(),
            Depth::Auto => most != Depth::Auto,
        };
        over.then(|| {
            let text = format!("It was started with a depth of {own}.");
            Fault::new("over_the_depth", text, "Start it with the depth \"auto\" to measure every depth.")
                .with("depth", own)
        })
    }

    fn text(&self, context: u32) -> Option<Fault> {
        (context < SHORTEST_TEXT).then(|| {
            let text = format!("Facts need a text of at least {SHORTEST_TEXT} tokens to hide in.");
            Fault::new("text_too_short", text, "Choose a longer context.").with("least", SHORTEST_TEXT)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn engine(context: u32, max_requests: u32, mtp_depth: Option<&str>) -> EngineModel {
        EngineModel {
            id: "m".into(),
            name: "M".into(),
            demonstration: false,
            family: "qwen3_5_moe".into(),
            context,
            stretch: None,
            kv: "bf16".into(),
            max_requests,
            device: "cpu".into(),
            exact: false,
            mtp_depth: mtp_depth.map(Into::into),
            draft_head: None,
            fp4_activations: false,
            notices: Vec::new(),
        }
    }

    fn of(rows: &[BenchRow], part: BenchPart) -> Vec<&BenchRow> {
        rows.iter().filter(|row| row.part == part).collect()
    }

    #[test]
    fn the_full_suite_has_every_cell_and_those_that_cannot_be_measured_say_why() {
        let order = BenchOrder { suite: BenchSuite::Full, ..BenchOrder::default() };
        let rows = plan(&order, &engine(262_144, 8, Some("auto")), Some(262_144));
        assert_eq!(of(&rows, BenchPart::Contexts).len(), 15);
        assert_eq!(of(&rows, BenchPart::Depths).len(), 14);
        let facts = of(&rows, BenchPart::Facts);
        let asked = |task| facts.iter().filter(|row| row.task == Some(task)).count();
        let single = asked(BenchTask::Start) + asked(BenchTask::Middle) + asked(BenchTask::End);
        assert_eq!((single, asked(BenchTask::Five), asked(BenchTask::Lost)), (9, 3, 3));
        for row in &rows {
            assert_eq!(row.state == BenchRowState::Skipped, row.fault.is_some(), "{row:?}");
        }
        let million = of(&rows, BenchPart::Contexts)[12];
        assert_eq!(million.fault.as_ref().map(|f| f.code.as_str()), Some("over_the_models_context"));
        assert_eq!(million.prompt, Some(1 << 20), "a skipped row still says what it would have been");
        let sixteen = of(&rows, BenchPart::Company)[4];
        assert_eq!(sixteen.fault.as_ref().map(|f| f.code.as_str()), Some("over_the_requests"));
    }

    #[test]
    fn a_prompt_is_as_long_as_its_context_says_and_at_the_limit_leaves_room_for_the_answer() {
        let order = BenchOrder { suite: BenchSuite::Full, ..BenchOrder::default() };
        let rows = plan(&order, &engine(262_144, 8, None), Some(262_144));
        let prompts: Vec<_> = of(&rows, BenchPart::Contexts).iter().map(|row| row.prompt.unwrap()).collect();
        assert_eq!(prompts[..3], [16_384; 3]);
        assert_eq!(prompts[6..9], [261_144; 3], "one prompt for all three answers");
        assert!(
            of(&rows, BenchPart::Depths).iter().all(|row| row.fault.as_ref().unwrap().code == "no_drafts")
        );
    }

    #[test]
    fn a_small_context_leaves_out_what_does_not_fit_and_keeps_the_rest() {
        let order = BenchOrder { contexts: Some(vec![512, 256, 512]), ..BenchOrder::default() };
        let rows = plan(&order, &engine(1024, 1, Some("2")), Some(32_768));
        assert_eq!(
            of(&rows, BenchPart::Contexts).iter().map(|r| r.prompt).collect::<Vec<_>>(),
            [Some(256), Some(512)]
        );
        let states: Vec<_> = of(&rows, BenchPart::Depths)[..7].iter().map(|row| row.state).collect();
        assert_eq!(states.iter().filter(|state| **state == BenchRowState::Waiting).count(), 3, "{states:?}");
        let prefill = of(&rows, BenchPart::Prefill);
        assert_eq!(prefill[1].fault.as_ref().map(|fault| fault.code.as_str()), Some("over_the_context"));
    }

    #[test]
    fn an_order_without_sense_is_refused_by_its_field() {
        let good = BenchOrder::default();
        check(&good).unwrap();
        for (key, order) in [
            ("contexts", BenchOrder { contexts: Some(vec![]), ..good.clone() }),
            ("contexts", BenchOrder { contexts: Some(vec![5]), ..good.clone() }),
            ("outputs", BenchOrder { outputs: Some(vec![1]), ..good.clone() }),
            ("clients", BenchOrder { clients: Some(vec![0]), ..good.clone() }),
            ("repeats", BenchOrder { repeats: Some(0), ..good.clone() }),
            ("note", BenchOrder { note: "x".repeat(201), ..good.clone() }),
            ("parts", BenchOrder { suite: BenchSuite::Arena, parts: vec![BenchPart::Facts], ..good.clone() }),
        ] {
            let error = check(&order).unwrap_err().to_string();
            assert!(error.starts_with(key), "{key}: {error}");
        }
    }

    #[test]
    fn spark_arenas_cells_are_all_there() {
        let order = BenchOrder { suite: BenchSuite::Arena, ..BenchOrder::default() };
        let rows = plan(&order, &engine(131_072, 4, Some("auto")), Some(262_144));
        assert_eq!(rows.len(), 28);
        assert!(rows.iter().all(|row| row.state == BenchRowState::Waiting && row.prompt == Some(2048)));
        assert!(rows.iter().any(|row| row.depth_tokens == 100_000 && row.clients == 10));
    }
}
