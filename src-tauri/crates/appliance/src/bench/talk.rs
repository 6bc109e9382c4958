//! Conversations that grow: an agent's, with tools whose results are written here, and one of words about the same material. Both have
//! the same length and the same turns, so that they can be held beside each other. Called by the runner.

use serde_json::{Value, json};

use super::{link::Told, suite::TURNS, types::BenchTraffic};

/// Most tokens of a turn.
pub(crate) const TURN_TOKENS: u32 = 200;

/// What comes back from a tool, turn by turn; in the conversation of words it is pasted in.
const MATERIAL: [&str; TURNS as usize] = [
    "running 4 tests\ntest empty_list ... ok\ntest one_item ... ok\ntest nested_lists ... FAILED\ntest trailing_comma ... FAILED\n\n\
     ---- nested_lists ----\nexpected [1, [2, 3]], found [1, 2, 3]\n---- trailing_comma ----\nunexpected end of input at line 1, column 7\n\n\
     test result: FAILED. 2 passed; 2 failed",
    "src/list.py\n\nclass Reader:\n    def __init__(self, text):\n        self.text = text\n        self.at = 0\n\n\
     \x20   def item(self):\n        if self.peek() == '[':\n            return self.items()\n        return self.number()\n\n\
     \x20   def items(self):\n        found = []\n        self.expect('[')\n        while self.peek() != ']':\n\
     \x20           found.extend(self.item())\n            if self.peek() == ',':\n                self.at += 1\n\
     \x20       self.expect(']')\n        return found\n",
    "src/list.py\n\n    def number(self):\n        start = self.at\n        while self.at < len(self.text) and self.text[self.at].isdigit():\n\
     \x20           self.at += 1\n        if start == self.at:\n            raise SyntaxError('a number is missing at %d' % start)\n\
     \x20       return [int(self.text[start:self.at])]\n\n    def peek(self):\n        return self.text[self.at] if self.at < len(self.text) else ''\n",
    "tests/test_list.py\n\ndef test_nested_lists():\n    assert Reader('[1,[2,3]]').items() == [1, [2, 3]]\n\n\
     def test_trailing_comma():\n    assert Reader('[1,2,]').items() == [1, 2]\n\n\
     def test_error_names_the_place():\n    with raises(SyntaxError) as error:\n        Reader('[1,x]').items()\n    assert 'at 3' in str(error)\n",
    "edited src/list.py: 3 lines changed\n\nrunning 4 tests\ntest empty_list ... ok\ntest one_item ... ok\ntest nested_lists ... ok\n\
     test trailing_comma ... FAILED\n\n---- trailing_comma ----\na number is missing at 5\n\ntest result: FAILED. 3 passed; 1 failed",
    "edited src/list.py: 2 lines changed\n\nrunning 4 tests\ntest empty_list ... ok\ntest one_item ... ok\ntest nested_lists ... ok\n\
     test trailing_comma ... ok\n\ntest result: ok. 4 passed; 0 failed",
];

const TASK: &str = "The reader of lists in this project fails two of its tests. Find out why and put it right, step by step: look at \
                    the code, then replace whole functions, and run the tests after every change.";

/// A conversation under way.
#[derive(Debug, Clone)]
pub(crate) struct Talk {
    traffic: BenchTraffic,
    messages: Vec<Value>,
    turn: usize,
}

impl Talk {
    /// The beginning. `name` makes its text another than that of every other conversation.
    pub(crate) fn begin(traffic: BenchTraffic, name: &str) -> Talk {
        let system = match traffic {
            BenchTraffic::Agent => format!(
                "Session {name}. You are a careful programmer. You act through the tools you are given."
            ),
            _ => format!(
                "Session {name}. You are a careful programmer. You explain in whole sentences what you think."
            ),
        };
        let messages =
            vec![json!({ "role": "system", "content": system }), json!({ "role": "user", "content": TASK })];
        Talk { traffic, messages, turn: 0 }
    }

    /// The same after some turns with answers that are written here: the prompt is the same every time.
    pub(crate) fn after(traffic: BenchTraffic, name: &str, turns: usize) -> Talk {
        let mut talk = Talk::begin(traffic, name);
        for turn in 0..turns {
            let mut told = Told::default();
            match traffic {
                BenchTraffic::Agent => {
                    let arguments = json!({ "path": "src/list.py" }).to_string();
                    let function = json!({ "name": "read_file", "arguments": arguments });
                    told.calls.push(
                        json!({ "id": format!("call_{turn}"), "type": "function", "function": function }),
                    );
                }
                _ => told.text = "I see. Let me look at the next piece before I say more.".into(),
            }
            talk.heard(&told);
        }
        talk
    }

    /// True once all material was shown.
    pub(crate) fn is_over(&self) -> bool {
        self.turn >= MATERIAL.len()
    }

    /// The next request; the seed makes its answer the same every time.
    pub(crate) fn request(&self, seed: u32) -> Value {
        let mut body = json!({ "messages": self.messages, "max_tokens": TURN_TOKENS, "seed": seed });
        if self.traffic == BenchTraffic::Agent {
            body["tools"] = tools();
            body["tool_choice"] = json!("required");
            body["parallel_tool_calls"] = json!(false);
        } else {
            // Both kinds of turn are to be of one length.
            body["min_tokens"] = json!(TURN_TOKENS);
        }
        body
    }

    /// Adds the answer, and what comes back for it.
    pub(crate) fn heard(&mut self, told: &Told) {
        let material = MATERIAL[self.turn.min(MATERIAL.len() - 1)];
        self.turn += 1;
        let whole = |call: &Value| {
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            call["id"] != "" && serde_json::from_str::<Value>(arguments).is_ok_and(|value| value.is_object())
        };
        // A call that the limit cut off is no call; then the text goes on without it.
        let calls: Vec<&Value> = told.calls.iter().filter(|call| whole(call)).collect();
        let mut answer = json!({ "role": "assistant", "content": told.text });
        if calls.is_empty() {
            self.messages.push(answer);
            let next = format!("{material}\n\nGo on.");
            self.messages.push(json!({ "role": "user", "content": next }));
            return;
        }
        answer["tool_calls"] = json!(calls);
        self.messages.push(answer);
        for call in calls {
            self.messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": material }));
        }
    }
}

fn tools() -> Value {
    let tool = |name: &str, what: &str, fields: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({ "type": "string" }))).collect();
        let parameters = json!({ "type": "object", "properties": properties, "required": fields });
        json!({ "type": "function", "function": { "name": name, "description": what, "parameters": parameters } })
    };
    json!([
        tool("read_file", "Shows a file.", &["path"]),
        tool("replace_text", "Replaces a text in a file by another.", &["path", "old", "new"]),
        tool("run_tests", "Runs the tests of a file.", &["path"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: Option<&str>) -> Told {
        let calls = call.map(|arguments| {
            json!({ "id": "c1", "type": "function", "function": { "name": "read_file", "arguments": arguments } })
        });
        Told {
            text: if call.is_none() { "Hm.".into() } else { String::new() },
            calls: calls.into_iter().collect(),
            ..Told::default()
        }
    }

    #[test]
    fn a_call_gets_its_result_and_a_broken_one_is_answered_with_words() {
        let mut talk = Talk::begin(BenchTraffic::Agent, "a");
        talk.heard(&told(Some(r#"{"path": "x"}"#)));
        let roles = |talk: &Talk| {
            talk.messages.iter().map(|m| m["role"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(roles(&talk)[2..], ["assistant", "tool"]);
        assert_eq!(talk.messages[3]["tool_call_id"], "c1");
        talk.heard(&told(Some(r#"{"path": "#)));
        assert_eq!(roles(&talk)[4..], ["assistant", "user"]);
        assert!(talk.messages[4].get("tool_calls").is_none());
    }

    #[test]
    fn conversations_grow_turn_by_turn_and_end() {
        for traffic in [BenchTraffic::Agent, BenchTraffic::Text] {
            let (mut talk, mut turns) = (Talk::begin(traffic, "a"), 0);
            let mut length = 0;
            while !talk.is_over() {
                let asked = talk.request(1).to_string();
                assert!(asked.len() > length);
                assert_eq!(talk.request(1).get("tools").is_some(), traffic == BenchTraffic::Agent);
                length = asked.len();
                talk.heard(&told(None));
                turns += 1;
            }
            assert_eq!(turns, TURNS);
        }
    }

    #[test]
    fn a_prepared_conversation_is_the_same_every_time() {
        let text = |name| Talk::after(BenchTraffic::Agent, name, 3).request(1).to_string();
        assert_eq!(text("a"), text("a"));
        assert_ne!(text("a"), text("b"));
    }
}
