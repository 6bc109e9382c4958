//! The appliance with the real engine and the built-in model: started, stopped, killed in the middle of things.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use hearth_tests::house::{House, PATIENCE, Plot, lives, signal, wait_gone};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A request that writes `tokens` tokens whatever the model wants.
fn endless(tokens: u32, stream: bool) -> Value {
    json!({ "model": "ember", "messages": [{ "role": "user", "content": "Tell me about the xylophone." }], "stream": stream,
        "max_tokens": tokens, "ignore_eos": true, "temperature": 0 })
}

fn error_of(event: &str) -> Value {
    serde_json::from_str::<Value>(event).unwrap_or_else(|_| panic!("{event} is not JSON"))["error"].clone()
}

/// The finished requests, once there are `n`; what was refused before any work is not among them.
fn requests(house: &House<'_>, n: usize) -> Vec<Value> {
    rows(house, n, |row| row["finish"] != "refused")
}

/// The rows of the history that are wanted, once there are `n`.
fn rows(house: &House<'_>, n: usize, wanted: fn(&Value) -> bool) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let rows = house.api("GET", "/api/requests?limit=100", Value::Null).json();
        let mut rows = rows.as_array().expect("a list").clone();
        rows.retain(wanted);
        if rows.len() >= n {
            return rows;
        }
        assert!(start.elapsed() < PATIENCE, "waited for {n} requests, found {rows:?}\n{}", house.log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_newcomer_starts_asks_and_stops_and_the_port_answers_throughout() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    assert_eq!(house.chat(8, false).status, 503);
    assert_eq!(house.post("/v1/models", Value::Null).status / 100, 4, "the list is read, not written");

    let serving = house.serve();
    assert_eq!(serving["model"]["demonstration"], true);
    let total: f64 = serving["memory"]["total"].as_f64().unwrap();
    let parts = house.wait_for("serving")["memory"]["parts"].as_array().unwrap().clone();
    let sum: f64 = parts.iter().map(|part| part["bytes"].as_f64().unwrap()).sum();
    assert_eq!(sum, total, "{parts:?}");
    let answer = house.post("/v1/chat/completions", endless(40, false));
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["usage"]["completion_tokens"], 40);
    let events: Vec<String> = house.post("/v1/chat/completions", endless(12, true)).events().collect();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));

    let rows = requests(&house, 2);
    assert_eq!((&rows[1]["finish"], &rows[1]["output_tokens"]), (&json!("length"), &json!(40)));
    assert!(rows[1]["ttft_s"].as_f64().is_some_and(|s| s > 0.0), "{rows:?}");

    let engine = house.engines()[0];
    assert_eq!(house.api("POST", "/api/engine/stop", Value::Null).status, 202);
    house.wait_for("stopped");
    wait_gone(engine);
    assert_eq!(house.chat(8, false).status, 503);
    house.serve();
    let history = house.api("GET", "/api/history?seconds=900", Value::Null).json();
    let kinds: Vec<&Value> =
        history["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["started", "stopped", "started"]);
}

#[test]
fn a_request_that_is_refused_is_a_row_in_the_history_with_its_code() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    assert_eq!(house.chat(8, false).status, 503, "no engine runs");
    house.serve();
    let chat = |model: &str, tokens: u64| json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": tokens });
    assert_eq!(house.post("/v1/chat/completions", json!([1])).status, 400);
    assert_eq!(house.post("/v1/chat/completions", chat("gpt-9", 1)).status, 404);
    assert_eq!(house.post("/v1/completions", json!({ "model": "ember", "prompt": [] })).status, 400);
    assert_eq!(house.post("/v1/chat/completions", chat("ember", 1 << 30)).status, 400);
    assert_eq!(house.post("/v1/chat/completions", chat("ember", 2)).status, 200);
    let mut rows = rows(&house, 6, |_| true);
    rows.reverse();
    let codes: Vec<&str> = rows.iter().map(|row| row["error_code"].as_str().unwrap_or("none")).collect();
    let (refused, answered) = codes.split_at(5);
    let expected =
        ["engine_stopped", "invalid_json", "model_not_found", "empty_prompt", "context_length_exceeded"];
    assert_eq!(refused, expected, "{rows:?}");
    assert_eq!((answered, &rows[5]["finish"]), (&["none"][..], &json!("length")));
    for row in &rows[..5] {
        assert_eq!((&row["finish"], &row["output_tokens"]), (&json!("refused"), &Value::Null), "{row}");
        assert!(row["error"].as_str().is_some_and(|sentence| sentence.len() > 10), "{row}");
        assert!(row["id"].as_str().is_some_and(|id| id.starts_with("req-")), "{row}");
    }
}

#[test]
fn the_text_of_requests_is_kept_nowhere() {
    let plot = Plot::new();
    let house = plot.up(&["--start"]);
    house.wait_for("serving");
    assert_eq!(house.post("/v1/chat/completions", endless(4, false)).status, 200);
    requests(&house, 1);
    assert!(house.end(Signal::TERM).success());
    let mut folders = vec![plot.root().to_path_buf()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => {
                    files += 1;
                    let found = fs::read(entry.path()).unwrap().windows(9).any(|w| w == b"xylophone");
                    assert!(!found, "{:?} holds the prompt", entry.path());
                }
                _ => {}
            }
        }
    }
    assert!(files >= 3, "history, log and token were looked at");
}

#[test]
fn an_engine_killed_in_the_middle_costs_one_stream_and_no_waiting_request() {
    let plot = Plot::new();
    plot.settings(b"[profile]\nmodel = \"ember\"\nmax_requests = 1\n");
    let house = plot.up(&[]);
    house.serve();
    // One request speaks, and holds the only place; three wait for it and have said nothing yet.
    let mut speaking = house.post("/v1/chat/completions", endless(30_000, true)).events();
    speaking.by_ref().find(|event| event.contains("\"content\":\"") && !event.contains("\"content\":\"\""));
    let waiting = thread::scope(|scope| {
        let ask = |stream| scope.spawn(move || house_post(house.port, &endless(5, stream)));
        let waiting = [ask(false), ask(false), ask(true)];
        let start = Instant::now();
        while house.state()["throughput"]["queued"] != 3 {
            assert!(start.elapsed() < PATIENCE, "they never queued: {}", house.log());
            thread::sleep(Duration::from_millis(20));
        }
        let killed = Instant::now();
        let dead = house.kill_engine();
        wait_gone(dead);
        let gone = killed.elapsed();
        let start = Instant::now();
        while house.engines().first().is_none_or(|engine| *engine == dead)
            || house.state()["state"]["kind"] != "serving"
        {
            assert!(start.elapsed() < PATIENCE, "no new engine: {}", house.log());
            thread::sleep(Duration::from_millis(10));
        }
        println!("gone {gone:?}, ready {:?} after kill -9", killed.elapsed());
        while !house.post("/v1/chat/completions", endless(1, false)).status.eq(&200) {
            assert!(killed.elapsed() < PATIENCE, "it does not serve again: {}", house.log());
        }
        println!("served again {:?} after kill -9", killed.elapsed());
        waiting.map(|thread| thread.join().unwrap())
    });
    for (status, body) in &waiting {
        assert_eq!(*status, 200, "{body}");
        assert!(!body.contains("error"), "{body}");
    }
    assert_eq!(
        waiting[2].1.matches("\"role\":\"assistant\"").count(),
        1,
        "begun again unnoticed: {}",
        waiting[2].1
    );
    let last = speaking.last().expect("the stream has an end");
    assert_eq!(error_of(&last)["code"], "engine_restarted", "{last}");
    let rows = requests(&house, 5);
    let lost: Vec<&Value> = rows.iter().filter(|row| row["finish"] == "error").collect();
    assert_eq!(lost.len(), 1, "the cut stream is in the history: {rows:?}");
    assert!(lost[0]["error"].is_string() && lost[0]["prompt_tokens"].is_null(), "{lost:?}");
}

fn house_post(port: u16, body: &Value) -> (u16, String) {
    let headers = [("content-type", "application/json")];
    let answer =
        hearth_tests::wire::send(port, "POST", "/v1/chat/completions", &headers, body.to_string().as_bytes());
    (answer.status, answer.text())
}

#[test]
fn the_engine_dies_with_the_appliance_however_that_ends() {
    for with in [Signal::KILL, Signal::TERM, Signal::INT] {
        let plot = Plot::new();
        let house = plot.up(&["--start"]);
        house.wait_for("serving");
        let engine = house.engines()[0];
        assert!(lives(engine));
        let status = house.end(with);
        assert_eq!(status.success(), with != Signal::KILL, "{with:?}");
        wait_gone(engine);
    }
}

#[test]
fn an_orderly_end_lets_a_running_answer_finish() {
    let plot = Plot::new();
    let house = plot.up(&["--start"]);
    house.wait_for("serving");
    let mut stream = house.post("/v1/chat/completions", endless(400, true)).events();
    stream.next();
    let ending = thread::scope(|scope| {
        let rest = scope.spawn(move || stream.last());
        (house.end(Signal::TERM), rest.join().unwrap())
    });
    assert!(ending.0.success());
    assert_eq!(ending.1.as_deref(), Some("[DONE]"));
}

#[test]
fn a_client_that_hangs_up_frees_its_place() {
    let plot = Plot::new();
    let house = plot.up(&["--start"]);
    house.wait_for("serving");
    {
        let body = endless(30_000, true).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", house.port)).unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let start = Instant::now();
        while house.state()["throughput"]["running"] != 1 {
            assert!(start.elapsed() < PATIENCE, "it never ran: {}", house.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(requests(&house, 1)[0]["finish"], "cancelled");
    assert_eq!(house.post("/v1/chat/completions", endless(3, false)).status, 200);
}

#[test]
fn an_engine_that_hangs_is_told_from_one_that_works() {
    let plot = Plot::new();
    let house = plot.up(&["--start"]);
    house.wait_for("serving");
    let engine = house.engines()[0];
    signal(engine, Signal::STOP);
    let state = house.wait_for("degraded")["state"].clone();
    assert_eq!(state["fault"]["code"], "engine_silent", "{state}");
    signal(engine, Signal::CONT);
    house.wait_for("serving");
    assert_eq!(house.post("/v1/chat/completions", endless(3, false)).status, 200);
}

#[test]
fn a_model_without_a_tokenizer_is_given_up_after_three_tries_with_the_reason() {
    let plot = Plot::new();
    let model = plot.root().join("half a model");
    fs::create_dir(&model).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen3_5_moe");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), model.join(file)).unwrap();
    }
    let house = plot.up(&[]);
    let profile = json!({ "profile": { "model": model.to_str().unwrap() } });
    assert_eq!(house.api("POST", "/api/engine/start", profile).status, 202);
    let state = house.wait_for("error")["state"].clone();
    let fault = &state["fault"];
    assert!(fault["message"].as_str().is_some_and(|text| text.contains("tokenizer.json")), "{fault}");
    assert!(fault["next_step"].as_str().is_some_and(|text| !text.is_empty()), "{fault}");
    let log = house.api("GET", "/api/log?lines=1000", Value::Null).json()["lines"].to_string();
    assert!((1..=3).contains(&log.matches("-- starting").count()), "{log}");
    let refusal = house.chat(4, false);
    assert_eq!(refusal.status, 503, "the port stays open");
    assert!(refusal.text().contains("tokenizer"), "and says why");
}

#[test]
fn the_stream_of_events_begins_with_the_state_and_tells_every_change_and_request() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let mut events = house.api("GET", "/api/events", Value::Null).events();
    let mut until =
        |wanted: &dyn Fn(&str) -> bool| events.by_ref().find(|event| wanted(event)).expect("it comes");
    let first = until(&|_| true);
    assert!(first.starts_with("state: ") && first.contains(r#""state":{"kind":"stopped"}"#), "{first}");
    house.serve();
    until(&|event| event.contains(r#""kind":"serving""#));
    assert_eq!(house.post("/v1/chat/completions", endless(3, false)).status, 200);
    let request = until(&|event| event.starts_with("request: "));
    let request: Value = serde_json::from_str(request.trim_start_matches("request: ")).unwrap();
    assert_eq!((&request["output_tokens"], &request["kind"]), (&json!(3), &json!("chat")));
    signal(house.engines()[0], Signal::KILL);
    until(&|event| event.contains(r#""kind":"restarting""#));
    until(&|event| event.contains(r#""kind":"serving""#));
}

#[test]
fn bad_requests_are_refused_through_the_whole_house_and_the_engine_stays() {
    let plot = Plot::new();
    let house = plot.up(&["--start"]);
    house.wait_for("serving");
    let engine = house.engines();
    let ask = |field: &str, value: Value| {
        let mut body = endless(4, false);
        body[field] = value;
        body.to_string().into_bytes()
    };
    let long = json!([{ "role": "user", "content": "word ".repeat(400_000) }]);
    let ten_megabytes = json!([{ "role": "user", "content": "x".repeat(10 << 20) }]);
    let raw = |tail: &str| {
        format!(r#"{{"model":"ember","messages":[{{"role":"user","content":"a"}}],{tail}}}"#).into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("not JSON", b"{\"model\": ".to_vec()),
        ("not text", b"\xff\xfe\x00".to_vec()),
        ("unknown model", ask("model", json!("gpt-17"))),
        ("negative temperature", ask("temperature", json!(-1))),
        ("NaN", raw(r#""temperature":NaN"#)),
        ("infinite", raw(r#""top_p":1e999"#)),
        ("top_p above one", ask("top_p", json!(1.5))),
        ("negative tokens", ask("max_tokens", json!(-5))),
        ("no messages", ask("messages", json!([]))),
        ("a thousand stop strings", ask("stop", json!((0..1000).map(|i| i.to_string()).collect::<Vec<_>>()))),
        ("over the context", ask("messages", long)),
        ("ten megabytes", ask("messages", ten_megabytes)),
    ];
    for (what, body) in cases {
        let headers = [("content-type", "application/json")];
        let answer = hearth_tests::wire::send(house.port, "POST", "/v1/chat/completions", &headers, &body);
        assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
        let error = answer.json()["error"].clone();
        for field in ["message", "type"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: {error}");
        }
    }
    assert_eq!(house.engines(), engine, "the same engine serves on");
    assert_eq!(house.post("/v1/chat/completions", endless(3, false)).status, 200);
}
