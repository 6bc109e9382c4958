//! What `hearth up` refuses, and whom the control API lets in. No engine is needed here.

use std::{ffi::OsStr, fs, net::TcpListener, os::unix::ffi::OsStrExt, os::unix::fs::PermissionsExt};

use hearth_tests::{house::Plot, wire::send};
use serde_json::{Value, json};

fn said(output: &std::process::Output) -> (String, Value) {
    let fault = serde_json::from_slice::<Value>(&output.stdout).expect("--json gives JSON");
    (String::from_utf8_lossy(&output.stderr).into_owned(), fault["error"].clone())
}

#[test]
fn a_port_in_use_is_refused_with_the_name_of_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let output = Plot::new().refused(&["up", "--json", "--port", &port]);
    let (text, fault) = said(&output);
    assert_eq!(fault["code"], "port_in_use");
    assert!(text.contains(&format!("pid {}", std::process::id())) && text.contains(&port), "{text}");
    assert!(fault["next_step"].as_str().unwrap().contains("--port"), "{fault}");
}

#[test]
fn a_second_appliance_on_the_same_settings_is_refused_with_the_address_of_the_first() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let (text, fault) = said(&plot.refused(&["up", "--json", "--port", "0"]));
    assert_eq!(fault["code"], "already_running");
    assert!(text.contains(&format!("http://127.0.0.1:{}", house.port)), "{text}");
    assert_eq!(house.state()["state"]["kind"], "stopped", "the first one goes on");
}

#[test]
fn a_broken_settings_file_is_refused_by_line_and_key_and_kept() {
    for (text, line, key) in [
        (&b"port = 9000\nprot = 1\n"[..], "line 2", "prot"),
        (b"[profile]\nmax_requests = \"many\"\n", "line 2", "max_requests"),
        (b"theme = \"dark\"\nhost = \"\xff\"\n", "line 2", "UTF-8"),
        (b"[profile]\nmodel = \"a\xff/b\"\n", "line 2", "UTF-8"),
        (b"host = \"0.0.0.0\"\n", "line 1", "host"),
    ] {
        let plot = Plot::new();
        plot.settings(text);
        let (said, fault) = said(&plot.refused(&["up", "--json", "--port", "0"]));
        assert_eq!(fault["code"], "bad_settings_file", "{said}");
        assert!(said.contains(line) && said.contains(key), "{said} (expected {line} and {key})");
        assert_eq!(fs::read(plot.config().join("settings.toml")).unwrap(), text);
    }
}

#[test]
fn a_model_path_that_is_not_utf8_is_refused_by_name() {
    let plot = Plot::new();
    let path = OsStr::from_bytes(b"/models/a\xffb");
    let mut command = plot.command(&[OsStr::new("up"), OsStr::new("--port"), OsStr::new("0")]);
    let output = command.arg("--model").arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("UTF-8") && text.contains("/models/a"), "{text}");
}

#[test]
fn the_control_api_wants_the_token_and_nothing_else_will_do() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let right = format!("Bearer {}", house.token);
    let calls = [
        ("GET", "/api/state"),
        ("GET", "/api/events"),
        ("GET", "/api/settings"),
        ("GET", "/api/log"),
        ("POST", "/api/engine/start"),
        ("POST", "/api/engine/stop"),
        ("GET", "/api/nothing"),
    ];
    for (method, path) in calls {
        for wrong in
            [None, Some("Bearer "), Some("Bearer 0000"), Some(&right[..right.len() - 1]), Some(&house.token)]
        {
            let headers: Vec<(&str, &str)> =
                wrong.map(|value| ("authorization", value)).into_iter().collect();
            let answer = send(house.port, method, path, &headers, b"");
            assert_eq!(answer.status, 401, "{method} {path} with {wrong:?}");
            assert_eq!(answer.json()["error"]["code"], "unauthorised");
        }
        let by_query = format!("{path}?token={}", house.token);
        assert_eq!(
            send(house.port, method, &by_query, &[], b"").status,
            401,
            "the token is no part of addresses"
        );
    }
    assert_eq!(house.state()["state"]["kind"], "stopped", "nothing was started");
    let mode = fs::metadata(plot.config().join("control-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_page_from_elsewhere_is_refused_even_with_the_token() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let right = format!("Bearer {}", house.token);
    let port = house.port;
    let refused = |host: &str, origin: Option<&str>, path: &str| {
        let mut headers = vec![("authorization", right.as_str()), ("host", host)];
        headers.extend(origin.map(|origin| ("origin", origin)));
        send(port, "GET", path, &headers, b"").status
    };
    let own = format!("127.0.0.1:{port}");
    for path in ["/api/state", "/v1/models", "/health", "/"] {
        assert_eq!(refused("rebound.example", None, path), 403, "{path}");
        assert_eq!(refused(&format!("rebound.example:{port}"), None, path), 403, "{path}");
        assert_eq!(refused(&own, Some("http://evil.example"), path), 403, "{path}");
        assert_eq!(refused(&own, Some("null"), path), 403, "{path}");
        assert_eq!(refused(&own, Some(&format!("http://{own}")), path), 200, "{path}");
        assert_eq!(refused(&format!("localhost:{port}"), None, path), 200, "{path}");
    }
}

#[test]
fn a_token_others_could_read_is_replaced_and_it_is_told() {
    let plot = Plot::new();
    let first = plot.up(&[]).token.clone();
    let file = plot.config().join("control-token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let house = plot.up(&[]);
    assert_ne!(house.token, first);
    let notices = house.state()["notices"].clone();
    assert!(notices.as_array().unwrap().iter().any(|notice| notice["code"] == "token_replaced"), "{notices}");
}

#[test]
fn bad_messages_are_refused_with_code_sentence_and_next_step() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let bearer = format!("Bearer {}", house.token);
    let headers = [("authorization", bearer.as_str())];
    let large = vec![b' '; 1 << 20];
    let cases: [(&str, &str, &[u8]); 8] = [
        ("PUT", "/api/settings", b"{"),
        ("PUT", "/api/settings", br#"{"port": 0}"#),
        ("PUT", "/api/settings", br#"{"unknown": 1}"#),
        ("PUT", "/api/settings", b"\xff\xfe"),
        ("POST", "/api/plan", br#"{"profile": {"model": "no/such-model"}}"#),
        ("POST", "/api/engine/start", br#"{"profile": {"model": "/no/such/folder"}}"#),
        ("POST", "/api/engine/start", br#"{"profile": {"max_requests": 0}}"#),
        ("GET", "/api/history?seconds=-1", b""),
    ];
    for (method, path, body) in cases {
        let answer = send(house.port, method, path, &headers, body);
        let what = format!("{method} {path} {}", String::from_utf8_lossy(body));
        assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
        let error = answer.json()["error"].clone();
        for field in ["code", "message", "next_step"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: {error}");
        }
    }
    assert_eq!(send(house.port, "PUT", "/api/settings", &headers, &large).status, 413);
    assert_eq!(send(house.port, "DELETE", "/api/state", &headers, b"").status, 405);
    assert_eq!(house.state()["state"]["kind"], "stopped");
}

#[test]
fn settings_are_changed_checked_and_kept() {
    let plot = Plot::new();
    let port = {
        let house = plot.up(&[]);
        let mut settings = house.api("GET", "/api/settings", Value::Null).json();
        assert_eq!(settings["profile"]["model"], "ember");
        settings["theme"] = json!("dark");
        settings["port"] = json!(23_456);
        assert_eq!(house.api("PUT", "/api/settings", settings).status, 200);
        let notices = house.state()["notices"].clone();
        assert!(
            notices.to_string().contains("23456"),
            "a new port needs a new start, which is told: {notices}"
        );
        house.port
    };
    let house = plot.up(&[]);
    let settings = house.api("GET", "/api/settings", Value::Null).json();
    assert_eq!((&settings["theme"], &settings["port"]), (&json!("dark"), &json!(23_456)));
    assert_ne!(port, 23_456);
}

#[test]
fn a_history_that_is_no_database_is_moved_aside_and_hearth_starts() {
    let plot = Plot::new();
    let state = plot.root().join("state/hearth");
    fs::create_dir_all(&state).unwrap();
    fs::write(
        state.join("history.db"),
        "rubbish that is long enough to be looked at by anybody who opens it",
    )
    .unwrap();
    let house = plot.up(&[]);
    let notices = house.state()["notices"].clone();
    assert!(notices.to_string().contains("history_moved"), "{notices}");
    assert_eq!(house.api("GET", "/api/requests", Value::Null).json(), json!([]));
}

#[test]
fn the_command_line_sees_and_steers_the_running_appliance() {
    let plot = Plot::new();
    let output = plot.refused(&["status", "--json"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no Hearth appliance") && text.contains("hearth up"), "{text}");
    let house = plot.up(&[]);
    let run = |args: &[&str]| {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        plot.command(&args).output().unwrap()
    };
    let status = run(&["status", "--json"]);
    assert!(status.status.success(), "{status:?}");
    let state: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        (&state["state"]["kind"], &state["endpoint"]["port"]),
        (&json!("stopped"), &json!(house.port))
    );
    assert!(run(&["start"]).status.success());
    house.wait_for("serving");
    let text = run(&["status"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("serving"), "{text:?}");
    assert!(run(&["stop"]).status.success());
    house.wait_for("stopped");
    let refused = plot.refused(&["start", "/no/such/folder"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/no/such/folder"), "{refused:?}");
}
