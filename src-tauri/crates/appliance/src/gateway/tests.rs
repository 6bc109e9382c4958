//! The gateway against engines that misbehave: sockets that answer by script and die where the script ends.

use std::{path::PathBuf, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use hearth_engine::status::RequestEnd;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    sync::{mpsc, watch},
};

use super::{Gateway, Limits};
use crate::{
    control::types::Profile,
    supervisor::{Ended, EngineView, Life, Supervisor, Target},
};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const WORD: &str = r#"{"choices":[{"delta":{"content":"word"},"finish_reason":null}]}"#;

/// A chunk of a chunked body that holds one event.
fn event(data: &str) -> String {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// A whole answer.
fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

struct Stage {
    folder: tempfile::TempDir,
    view: watch::Sender<EngineView>,
    routes: Router,
    ended: mpsc::Receiver<Ended>,
}

impl Stage {
    fn new(limits: Limits) -> Stage {
        let (view, seen) = watch::channel(EngineView::stopped(Profile::default()));
        let (tell, ended) = mpsc::channel(16);
        let routes = Gateway::new(Supervisor::pretended(seen, tell), limits).routes();
        Stage { folder: tempfile::tempdir().unwrap(), view, routes, ended }
    }

    fn live(&self, life: Life) {
        self.view.send_modify(|view| view.life = life);
    }

    fn loading(&self) {
        self.live(Life::Loading { since: std::time::Instant::now(), last: None });
    }

    /// Engine `generation` serves from now on: it reads a request, writes `script`, and closes the connection. The requests it
    /// gets come out of the channel.
    fn engine(&self, generation: u64, script: String) -> mpsc::UnboundedReceiver<String> {
        let socket: PathBuf = self.folder.path().join(format!("{generation}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let (tell, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 65536];
                let mut length = 0;
                while !String::from_utf8_lossy(&bytes[..length]).contains("END") {
                    length += stream.read(&mut bytes[length..]).await.unwrap();
                }
                let _ = tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
                stream.write_all(script.as_bytes()).await.unwrap();
                if script.is_empty() {
                    // Says nothing and waits for the other side to leave.
                    let left = stream.read(&mut bytes).await;
                    let _ = tell.send(format!("left {left:?}"));
                }
            }
        });
        self.view.send_modify(|view| {
            view.life = Life::Serving { since_ms: 0.0 };
            view.target = Some(Target { socket, generation });
        });
        requests
    }

    async fn ask(&self) -> Response<Body> {
        use tower_service::Service;
        let request = Request::post("/v1/chat/completions").body(Body::from(r#"{"say":"END"}"#)).unwrap();
        self.routes.clone().call(request).await.unwrap()
    }
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The code of the one request in the history, which was refused.
fn refused(stage: &mut Stage) -> String {
    let ended = stage.ended.try_recv().expect("it is told").request;
    assert!(stage.ended.try_recv().is_err(), "and told once");
    assert!(ended.id.starts_with("req-") && ended.finish == RequestEnd::Refused, "{ended:?}");
    ended.error.expect("a refusal has a reason").code
}

fn quick() -> Limits {
    Limits { wait: Duration::from_secs(30), ..Limits::default() }
}

#[tokio::test]
async fn without_an_engine_the_port_answers_and_says_when_to_come_back() {
    let mut stage = Stage::new(quick());
    let response = stage.ask().await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(refused(&mut stage), "engine_stopped");
    let error: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(error["error"]["code"], "engine_stopped");
    assert_eq!(error["error"]["type"], "server_error");
}

#[tokio::test]
async fn a_request_waits_for_an_engine_that_is_loading() {
    let stage = Stage::new(quick());
    stage.loading();
    let waiting = stage.ask();
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    let _requests = stage.engine(1, answer("{\"ok\":1}"));
    assert_eq!(text(waiting.await).await, "{\"ok\":1}");
}

#[tokio::test]
async fn waiting_has_an_end() {
    let stage = Stage::new(Limits { wait: Duration::from_millis(50), ..Limits::default() });
    stage.loading();
    let response = stage.ask().await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(response).await.contains("engine_loading"));
}

#[tokio::test]
async fn a_request_whose_engine_dies_is_given_to_the_next_one_with_the_same_name_and_body() {
    let stage = Stage::new(quick());
    let mut first = stage.engine(1, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half".into());
    let waiting = tokio::spawn({
        let routes = stage.routes.clone();
        async move {
            use tower_service::Service;
            let request = Request::post("/v1/completions").body(Body::from("END")).unwrap();
            routes.clone().call(request).await.unwrap()
        }
    });
    let seen_first = first.recv().await.unwrap();
    stage.loading();
    let mut second = stage.engine(2, answer("{\"ok\":2}"));
    let response = waiting.await.unwrap();
    assert_eq!(text(response).await, "{\"ok\":2}");
    assert_eq!(second.recv().await.unwrap(), seen_first, "same id, same headers, same body");
    assert!(seen_first.contains("x-request-id: req-"));
}

#[tokio::test]
async fn a_request_whose_engine_says_that_its_gpu_failed_is_given_to_the_next_one() {
    let fault = r#"{"error":{"code":"device_illegal_address","message":"The GPU failed."}}"#;
    let whole = format!(
        "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{fault}",
        fault.len()
    );
    let streamed = format!("{EVENTS}{}{}0\r\n\r\n", event(ROLE), event(fault));
    let again = format!("{EVENTS}{}{}0\r\n\r\n", event(ROLE), event(WORD));
    for (first, second, wanted) in [(whole, answer("{\"ok\":2}"), "ok"), (streamed, again, "word")] {
        let stage = Stage::new(quick());
        let mut seen = stage.engine(1, first);
        let asked = async {
            let response = stage.ask().await;
            text(response).await
        };
        let next = async {
            seen.recv().await.unwrap();
            stage.loading();
            stage.engine(2, second)
        };
        let (text, _requests) = tokio::join!(asked, next);
        assert!(text.contains(wanted) && !text.contains("device_illegal_address"), "{text}");
    }
}

#[tokio::test]
async fn a_stream_that_has_said_nothing_yet_is_begun_again_unnoticed() {
    let stage = Stage::new(quick());
    let mut first = stage.engine(1, format!("{EVENTS}{}", event(ROLE)));
    let response = stage.ask().await;
    first.recv().await.unwrap();
    stage.loading();
    let reading = tokio::spawn(text(response));
    let _second =
        stage.engine(2, format!("{EVENTS}{}{}{}0\r\n\r\n", event(ROLE), event(WORD), event("[DONE]")));
    let stream = reading.await.unwrap();
    assert_eq!(stream, format!("data: {ROLE}\n\ndata: {WORD}\n\ndata: [DONE]\n\n"));
}

#[tokio::test]
async fn a_stream_that_has_spoken_ends_with_an_error_event_and_a_row_in_the_history() {
    let mut stage = Stage::new(quick());
    let half = format!("{:x}\r\ndata: {{\"choi\r\n", "data: {\"choi".len());
    let _requests = stage.engine(1, format!("{EVENTS}{}{}{half}", event(ROLE), event(WORD)));
    let stream = text(stage.ask().await).await;
    let events: Vec<&str> = stream.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{stream}");
    let error: serde_json::Value = serde_json::from_str(events[2].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "engine_restarted");
    assert!(!stream.contains("[DONE]") && !stream.contains("choi\n"), "{stream}");
    let ended = stage.ended.try_recv().expect("it is told").request;
    assert!(ended.id.starts_with("req-") && ended.output_tokens == 1 && ended.error.is_some(), "{ended:?}");
}

#[tokio::test]
async fn a_request_that_ends_every_engine_is_given_up() {
    let stage = Stage::new(quick());
    // Closes without a word, each time: the engine "lives on" in the view, so the same one is tried again.
    let mut requests = stage.engine(1, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".into());
    let response = stage.ask().await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(text(response).await.contains("engine_restarted"));
    let mut tries = 0;
    while requests.try_recv().is_ok() {
        tries += 1;
    }
    assert_eq!(tries, 1 + quick().retries);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let stage = Stage::new(quick());
    let mut requests = stage.engine(1, String::new());
    let asked = tokio::spawn({
        let routes = stage.routes.clone();
        async move {
            use tower_service::Service;
            let request = Request::post("/v1/chat/completions").body(Body::from("END")).unwrap();
            let _ = routes.clone().call(request).await;
        }
    });
    assert!(requests.recv().await.unwrap().contains("END"));
    asked.abort();
    assert_eq!(requests.recv().await.unwrap(), "left Ok(0)", "the engine sees the connection close");
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_refused_before_the_engine_sees_it() {
    let mut stage = Stage::new(Limits { body: 10, ..quick() });
    let mut requests = stage.engine(1, answer("{}"));
    let response = stage.ask().await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(refused(&mut stage), "request_too_large");
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_is_sent() {
    use tower_service::Service;
    /// Announces a length, and never sends a byte.
    struct Announced;
    impl axum::body::HttpBody for Announced {
        type Data = axum::body::Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            std::task::Poll::Pending
        }
        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(11)
        }
    }
    let stage = Stage::new(Limits { body: 10, ..quick() });
    let request = Request::post("/v1/chat/completions").body(Body::new(Announced)).unwrap();
    let mut routes = stage.routes.clone();
    let asked = tokio::time::timeout(std::time::Duration::from_secs(20), routes.call(request));
    let response = asked.await.expect("an answer without the body").unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_configured_model_is_listed_while_nothing_runs() {
    use tower_service::Service;
    let stage = Stage::new(quick());
    let list = Request::get("/v1/models").body(Body::empty()).unwrap();
    let list: serde_json::Value =
        serde_json::from_str(&text(stage.routes.clone().call(list).await.unwrap()).await).unwrap();
    assert_eq!(list["data"][0]["id"], "ember");
    let other = Request::get("/v1/models/other").body(Body::empty()).unwrap();
    assert_eq!(stage.routes.clone().call(other).await.unwrap().status(), StatusCode::NOT_FOUND);
}
