//! Chat templates: Jinja as Hugging Face's `apply_chat_template` runs it. Compiled once per engine; used by the chat handler.

use minijinja::{
    Environment, Error, ErrorKind, State, Value as Jinja,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{ApiError, clock};

const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like, which templates may print.
    tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles a template; `tokenizer_config` names the special tokens.
    ///
    /// # Errors
    /// The compiler's sentence.
    pub fn compile(source: &str, tokenizer_config: Option<&Value>) -> Result<ChatTemplate, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| e.to_string())?);
        environment.set_unknown_method_callback(method);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| clock::strftime_now(&format));
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(|e| format!("{e:#}"))?;
        let mut tokens = Map::new();
        for (name, token) in tokenizer_config.and_then(Value::as_object).into_iter().flatten() {
            let text = token.as_str().or_else(|| token.get("content").and_then(Value::as_str));
            if let Some(text) = text.filter(|_| name.ends_with("_token")) {
                tokens.insert(name.clone(), Value::from(text));
            }
        }
        Ok(ChatTemplate { environment, tokens })
    }

    /// The prompt for `messages`. `extra` are the client's `chat_template_kwargs`.
    ///
    /// # Errors
    /// 400: the template refuses the conversation, in its own words.
    pub fn render(
        &self,
        messages: &[Value],
        tools: &[Value],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String, ApiError> {
        let mut context = self.tokens.clone();
        context.extend(extra.clone());
        context.insert("messages".into(), Value::from(messages));
        context.insert("tools".into(), if tools.is_empty() { Value::Null } else { Value::from(tools) });
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), Value::from(add_generation_prompt));
        let template = self.environment.get_template(NAME).expect("compile added it");
        template.render(Serde(&context)).map_err(|error| {
            let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            let message = format!("The model's chat template refuses these messages: {reason}.");
            ApiError::invalid("template_refused", message.replace("..", ".")).with_param("messages")
        })
    }
}

/// Python's string methods, of which minijinja-contrib lacks two.
fn method(state: &mut State, value: &Jinja, name: &str, args: &[Jinja]) -> Result<Jinja, Error> {
    if let (Some(text), Some(part)) = (value.as_str(), args.first().and_then(Jinja::as_str)) {
        match name {
            "removeprefix" => return Ok(Jinja::from(text.strip_prefix(part).unwrap_or(text))),
            "removesuffix" => return Ok(Jinja::from(text.strip_suffix(part).unwrap_or(text))),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// `json.dumps` as transformers calls it: no HTML escapes, Python's separators, order kept, text not escaped to ASCII.
fn tojson(value: Jinja, options: Kwargs) -> Result<Jinja, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<Jinja> = options.get("separators")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut json = serde_json::to_value(&value).map_err(failed)?;
    if sort == Some(true) {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
                .map_err(failed)?;
        }
        None => {
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Python)).map_err(failed)?
        }
    }
    let text = String::from_utf8(out).expect("serde_json writes UTF-8");
    Ok(Jinja::from_safe_string(text))
}

/// `", "` between items and `": "` after keys.
struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// `{% generation %}` marks what an assistant wrote, for training; rendering has no use for it and no engine but
/// transformers knows it.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|at| open + at + 2) else { break };
        let tag = rest[open + 2..close - 2].trim_matches('-').trim();
        out.push_str(&rest[..open]);
        if tag == "generation" || tag == "endgeneration" {
            // The tag's white-space control must still work, so it becomes an empty comment.
            let (left, right) = (rest[open + 2..].starts_with('-'), rest[..close - 2].ends_with('-'));
            out.push_str(if left { "{#-" } else { "{#" });
            out.push_str(if right { "-#}" } else { "#}" });
        } else {
            out.push_str(&rest[open..close]);
        }
        rest = &rest[close..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, context: Value) -> String {
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "other": "x"});
        let template = ChatTemplate::compile(template, Some(&config)).expect("compiles");
        let messages = context["messages"].as_array().cloned().unwrap_or_default();
        let tools = context["tools"].as_array().cloned().unwrap_or_default();
        let extra = context["extra"].as_object().cloned().unwrap_or_default();
        template.render(&messages, &tools, true, &extra).expect("renders")
    }

    /// tests/prompts.py wrote the expected prompts with transformers.
    #[test]
    fn prompts_are_those_of_transformers_to_the_last_character() {
        let golden: Value = serde_json::from_str(include_str!("../tests/prompts.json")).expect("JSON");
        let config = json!({"bos_token": "<s>", "eos_token": "<|im_end|>"});
        let list = |value: &Value| value.as_array().cloned().expect("a list");
        let cases = list(&golden["cases"]);
        assert_eq!(cases.len(), 16);
        for case in cases {
            let source =
                golden["templates"][case["template"].as_str().expect("a name")].as_str().expect("text");
            let template = ChatTemplate::compile(source, Some(&config)).expect("compiles");
            let arguments = case["arguments"].as_object().expect("an object");
            let prompt = template.render(&list(&case["messages"]), &list(&case["tools"]), true, arguments);
            assert_eq!(prompt.as_deref(), Ok(case["prompt"].as_str().expect("text")), "{}", case["name"]);
        }
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let tool = json!({"name": "f", "z": [1, 2.5, true, null], "a": {"text": "<b> & 'q' \"d\" ü"}});
        assert_eq!(
            render("{{ tools[0] | tojson }}", json!({"tools": [tool]})),
            r#"{"name": "f", "z": [1, 2.5, true, null], "a": {"text": "<b> & 'q' \"d\" ü"}}"#
        );
        assert_eq!(
            render("{{ tools[0] | tojson(indent=2) }}", json!({"tools": [{"a": [1]}]})),
            "{\n  \"a\": [\n    1\n  ]\n}"
        );
    }

    #[test]
    fn python_methods_special_tokens_and_arguments_work() {
        let template = "{{ bos_token }}{% for m in messages %}{{ m.content.strip().removeprefix('a').split('-')[-1] }}\
                        {{ m['role'].upper() }}{{ m.missing is defined }}{% endfor %}{{ eos_token }}{{ enable_thinking }}";
        let context =
            json!({"messages": [{"role": "user", "content": " ab-c "}], "extra": {"enable_thinking": false}});
        assert_eq!(render(template, context), "<s>cUSERFalse</s>False");
    }

    #[test]
    fn blocks_leave_no_blank_lines_and_generation_marks_vanish() {
        let template = "{% for m in messages %}\n    {% if m.role %}\n{{ m.role }}:\n    {%- generation -%}\n x \n{% endgeneration %}\n    {% endif %}\n{% endfor %}";
        let context = json!({"messages": [{"role": "a"}, {"role": "b"}]});
        assert_eq!(render(template, context), "a:x \nb:x \n");
    }

    #[test]
    fn what_a_template_refuses_reaches_the_client_in_its_words() {
        let source =
            "{% if messages[0].role != 'user' %}{{ raise_exception('No user query found') }}{% endif %}";
        let template = ChatTemplate::compile(source, None).expect("compiles");
        let error = template.render(&[json!({"role": "tool"})], &[], true, &Map::new()).expect_err("refused");
        assert!(error.message.contains("No user query found"), "{error}");
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("messages")));
    }

    #[test]
    fn a_template_that_is_no_jinja_is_an_error() {
        assert!(ChatTemplate::compile("{% if %}", None).is_err());
    }
}
