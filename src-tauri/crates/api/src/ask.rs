//! From a conversation to answers under way: template, token ids, grammar, queue. The endpoints that hold conversations
//! (chat, responses, messages) read their own fields, and all else is the same for them.

use hearth_engine::{Begin, GrammarSource, Request, Spaces, status::RequestKind};
use serde_json::{Map, Value};

use crate::{
    ApiError, answers::Answers, app::App, form::Form, generation::Generation, parts::Splitter, seam,
    template::ChatTemplate, tool_choice::ToolChoice, tool_grammar, tools::Tools,
};

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// A conversation that is to be continued.
pub struct Conversation {
    /// In the form that templates expect; see `messages`.
    pub messages: Vec<Value>,
    /// What may be called.
    pub tools: Tools,
    /// Whether something must be called.
    pub choice: ToolChoice,
    /// At most one call.
    pub single: bool,
    /// What the client tells the template.
    pub arguments: Map<String, Value>,
    /// The form of the answer.
    pub form: Option<Form>,
}

/// Answers, and for each of them what reads it.
pub struct Asked {
    /// The answers.
    pub answers: Answers,
    /// One per choice.
    pub splitters: Vec<Splitter>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// Renders, encodes, compiles and submits.
///
/// # Errors
/// Anything that is wrong with the request, or that the engine does not take it.
pub async fn ask(
    app: &App,
    id: String,
    kind: RequestKind,
    conversation: Conversation,
    generation: &Generation,
) -> Result<Asked, ApiError> {
    let served = app.engine().served()?;
    let Conversation { mut messages, tools, choice, single, arguments, form } = conversation;
    let mut offered = tools.values().to_vec();
    let seam = seam::cut(served.tokenizer.specials(), messages.iter_mut().chain(&mut offered));
    let rendered = render(app.template()?, &messages, &offered, &arguments)?;
    let form = grammar(&tools, choice, single, form, rendered.thinking)?;
    let formed = form.as_ref().is_some_and(|(_, begin)| *begin == Begin::AtOnce);
    let constraint = match form {
        Some((form, begin)) => Some(app.compile(form, begin).await?),
        None => None,
    };
    let prompt =
        app.encode(rendered.prompt, seam, generation.max_tokens.unwrap_or(1), Some(tools.clone())).await?;
    let prompt_tokens = prompt.len();
    let request = Request { id, kind, prompt, constraint, ..generation.request() };
    let answers = Answers::submit(app.engine(), &[request], generation.n)?;
    let tools = (!tools.is_empty()).then_some(tools);
    let splitter = || {
        let splitter = Splitter::new(rendered.thinking, tools.clone(), single);
        if formed { splitter.without_reasoning() } else { splitter }
    };
    let splitters = std::iter::repeat_with(splitter).take(answers.choices()).collect();
    Ok(Asked { answers, splitters, prompt_tokens })
}

/// Tokens of the prompt of a conversation.
///
/// # Errors
/// It cannot be rendered, or is longer than the context.
pub async fn count(app: &App, conversation: &Conversation) -> Result<usize, ApiError> {
    let served = app.engine().served()?;
    let (mut messages, mut offered) = (conversation.messages.clone(), conversation.tools.values().to_vec());
    let seam = seam::cut(served.tokenizer.specials(), messages.iter_mut().chain(&mut offered));
    let rendered = render(app.template()?, &messages, &offered, &conversation.arguments)?;
    Ok(app.encode(rendered.prompt, seam, 1, Some(conversation.tools.clone())).await?.len())
}

/// The form that tools and the wish for a form give the answer together, and where it begins.
fn grammar(
    tools: &Tools,
    choice: ToolChoice,
    single: bool,
    form: Option<Form>,
    thinking: bool,
) -> Result<Option<(Form, Begin)>, ApiError> {
    let behind = || if thinking { Begin::After(THINK_END.to_owned()) } else { Begin::AtOnce };
    let of_tools = |lark: String| Form {
        source: GrammarSource::Lark(lark),
        spaces: Spaces::default(),
        param: "tools".to_owned(),
    };
    if choice == ToolChoice::Required {
        return Ok(Some((of_tools(tool_grammar::calls(tools, single)?), behind())));
    }
    if let Some(form) = form {
        if tools.is_empty() {
            return Ok(Some((form, behind())));
        }
        // The model may call instead of answering.
        let calls = GrammarSource::Lark(tool_grammar::calls(tools, single)?);
        let source = GrammarSource::Either(vec![form.source.clone(), calls]);
        return Ok(Some((Form { source, ..form }, behind())));
    }
    if tools.any_strict() {
        let begin = Begin::Whenever(tool_grammar::OPENING.to_owned());
        return Ok(Some((of_tools(tool_grammar::rest_of_call(tools)?), begin)));
    }
    Ok(None)
}

impl Generation {
    /// A request of these settings; its name, kind, prompt and form are still missing.
    pub fn request(&self) -> Request {
        Request {
            id: String::new(),
            kind: RequestKind::Chat,
            prompt: Vec::new(),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            ignore_end: self.ignore_end,
            priority: self.priority,
            account: self.account,
            logprobs: self.logprobs,
            constraint: None,
            mtp_depth: self.mtp_depth,
        }
    }
}

struct Rendered {
    prompt: String,
    /// The answer begins inside `<think>`.
    thinking: bool,
}

/// The prompt of a conversation. If the last message is the assistant's, the answer continues it.
fn render(
    template: &ChatTemplate,
    conversation: &[Value],
    tools: &[Value],
    arguments: &Map<String, Value>,
) -> Result<Rendered, ApiError> {
    let last = conversation.last();
    let beginning = last
        .filter(|m| m["role"] == "assistant" && m.get("tool_calls").is_none())
        .and_then(|m| m["content"].as_str())
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let mut prompt = template.render(conversation, tools, beginning.is_none(), arguments)?;
    let Some(beginning) = beginning else {
        let thinking = prompt.trim_end().ends_with(THINK);
        return Ok(Rendered { prompt, thinking });
    };
    let end = prompt.rfind(beginning).map(|at| at + beginning.len()).ok_or_else(|| {
        let message = "The model's chat template changes the last message, so the answer cannot continue it. End with a user message.";
        ApiError::value("messages", message)
    })?;
    prompt.truncate(end);
    let thinking = beginning.rfind(THINK).is_some_and(|at| !beginning[at..].contains(THINK_END));
    Ok(Rendered { prompt, thinking })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fields::Fields, messages};
    use serde_json::json;

    const EMBER: &str = include_str!("../../../assets/ember/model/chat_template.jinja");

    fn prompt(conversation: Value, tools: Value, arguments: Value) -> Rendered {
        let template = ChatTemplate::compile(EMBER, None).expect("ember's template compiles");
        let fields =
            Fields::parse(json!({"messages": conversation}).to_string().as_bytes()).expect("an object");
        let conversation = messages::read(&fields).expect("valid messages");
        let tools = Tools::read(&tools).expect("valid tools");
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        render(&template, &conversation, tools.values(), &arguments).expect("renders")
    }

    #[test]
    fn embers_prompt_ends_where_the_answer_begins() {
        let rendered = prompt(
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>"}]),
            json!([]),
            json!({}),
        );
        assert_eq!(
            rendered.prompt,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        );
        assert!(!rendered.thinking);
        let rendered =
            prompt(json!([{"role": "user", "content": "Hi"}]), json!([]), json!({"enable_thinking": true}));
        assert!(rendered.prompt.ends_with("<|im_start|>assistant\n<think>\n"));
        assert!(rendered.thinking);
    }

    #[test]
    fn tools_are_written_as_python_writes_json() {
        let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "<what> & 'how'"}}}}});
        let rendered = prompt(json!([{"role": "user", "content": "x"}]), json!([tool]), json!({}));
        let line = r#"{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "<what> & 'how'"}}}}}"#;
        assert!(rendered.prompt.contains(&format!("<tools>\n{line}\n</tools>")), "{}", rendered.prompt);
    }

    #[test]
    fn a_call_and_its_result_come_back_in_the_form_the_model_wrote_them() {
        let rendered = prompt(
            json!([
                {"role": "user", "content": "add"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1, \"s\": \"x\"}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "2"},
            ]),
            json!([]),
            json!({}),
        );
        let call = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call><|im_end|>\n";
        let result = "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n";
        assert!(rendered.prompt.contains(&format!("{call}{result}")), "{}", rendered.prompt);
    }

    #[test]
    fn an_answer_that_was_begun_is_continued() {
        let rendered = prompt(
            json!([{"role": "user", "content": "List."}, {"role": "assistant", "content": "1. one\n2. "}]),
            json!([]),
            json!({}),
        );
        assert!(rendered.prompt.ends_with("</think>\n\n1. one\n2."), "{}", rendered.prompt);
        assert!(!rendered.thinking);
    }

    #[test]
    fn tools_and_forms_together_make_one_grammar() {
        let tool = |strict: bool| {
            json!([{"type": "function", "function": {"name": "f", "strict": strict, "parameters": {
            "type": "object", "properties": {"a": {"type": "integer"}}}}}])
        };
        let tools = |strict| Tools::read(&tool(strict)).expect("valid");
        let form = || {
            let fields =
                Fields::parse(br#"{"response_format": {"type": "json_object"}}"#).expect("an object");
            Form::read(&fields).expect("valid")
        };
        let begin = |tools: &Tools, choice, form, thinking| {
            grammar(tools, choice, false, form, thinking).expect("a grammar").map(|(_, begin)| begin)
        };
        let (none, after) = (Tools::default(), Begin::After(THINK_END.to_owned()));
        assert_eq!(begin(&none, ToolChoice::Auto, None, false), None);
        assert_eq!(begin(&none, ToolChoice::Auto, form(), false), Some(Begin::AtOnce));
        assert_eq!(begin(&none, ToolChoice::Auto, form(), true), Some(after.clone()));
        assert_eq!(begin(&tools(false), ToolChoice::Auto, None, true), None);
        assert_eq!(
            begin(&tools(true), ToolChoice::Auto, None, true),
            Some(Begin::Whenever("<tool_call>".to_owned()))
        );
        assert_eq!(begin(&tools(false), ToolChoice::Required, form(), true), Some(after));
        let both = grammar(&tools(false), ToolChoice::Auto, false, form(), false).expect("a grammar");
        assert!(
            matches!(both, Some((Form { source: GrammarSource::Either(forms), .. }, _)) if forms.len() == 2)
        );
    }
}
