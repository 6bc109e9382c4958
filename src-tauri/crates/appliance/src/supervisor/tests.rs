//! The supervisor with programs that are no engines: they refuse, crash, stay silent, or are not there.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use super::*;

/// Longest wait; only a broken supervisor needs it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Stage {
    _folder: tempfile::TempDir,
    supervisor: Supervisor,
}

/// A supervisor whose "hearth" is a shell script.
fn stage(script: &str, policy: Policy) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hearth");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    staged(folder, program, policy)
}

fn staged(folder: tempfile::TempDir, program: PathBuf, policy: Policy) -> Stage {
    let at = |name| folder.path().join(name);
    let places = Places { config: at("config"), state: at("state"), runtime: at("run") };
    places.prepare().unwrap();
    let options = SupervisorOptions { program, places, profile: Profile::default(), policy };
    Stage { supervisor: Supervisor::start(options, mpsc::channel(1).0), _folder: folder }
}

fn quick() -> Policy {
    Policy {
        first_pause: Duration::from_millis(5),
        busy_poll: Duration::from_millis(20),
        poll_timeout: Duration::from_millis(200),
        silence: Duration::from_millis(300),
        ..Policy::default()
    }
}

impl Stage {
    async fn until(&self, wanted: impl Fn(&EngineView) -> bool) -> EngineView {
        let mut view = self.supervisor.view();
        let reached = tokio::time::timeout(PATIENCE, view.wait_for(|view| wanted(view))).await;
        let view =
            reached.unwrap_or_else(|_| panic!("not reached: {:?}", self.supervisor.view().borrow().life));
        view.expect("the supervisor lives").clone()
    }

    async fn given_up(&self) -> (EngineView, hearth_engine::status::Fault) {
        self.supervisor.order(Order::Start(Profile::default())).await;
        let view = self.until(|view| matches!(view.life, Life::Failed { .. })).await;
        match view.life.clone() {
            Life::Failed { fault } => (view, fault),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_tried_three_times_and_shown_with_what_was_said() {
    let stage = stage("echo 'the model has no tokenizer' >&2; exit 3", quick());
    let (view, fault) = stage.given_up().await;
    assert_eq!((view.crashes, fault.code.as_str()), (3, "engine_refused"));
    assert!(fault.evidence.is_some_and(|text| text.contains("no tokenizer")));
    assert!(matches!(view.reach(), Reach::Shut(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_given_up_does_not_promise_another_start() {
    let (_, fault) = stage("exit 1", quick()).given_up().await;
    assert_eq!(fault.code, "engine_crashed");
    assert!(!fault.next_step.contains("started again"), "{}", fault.next_step);
    assert!(fault.next_step.contains("press Start"), "{}", fault.next_step);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_gpu_failed_is_counted_as_that_and_started_again_before_it_is_given_up() {
    let stage = stage("echo 'CUDA_ERROR_ILLEGAL_ADDRESS (700)' >&2; exit 4", quick());
    stage.supervisor.order(Order::Start(Profile::default())).await;
    let view = stage.until(|view| matches!(view.life, Life::Restarting { .. })).await;
    let Life::Restarting { fault, .. } = &view.life else { panic!("{:?}", view.life) };
    assert_eq!((fault.code.as_str(), fault.message.as_str()), ("device_fault", "The GPU reports a fault."));
    assert!(fault.next_step.contains("Xid"), "{}", fault.next_step);
    assert!(fault.evidence.as_ref().is_some_and(|text| text.contains("(700)")));
    let view = stage.until(|view| matches!(view.life, Life::Failed { .. })).await;
    assert_eq!((view.crashes, view.device_faults), (3, 3));
    let Life::Failed { fault } = view.life else { panic!("{:?}", view.life) };
    assert!(
        fault.next_step.contains("press Start") && !fault.next_step.contains("started again"),
        "{fault:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_not_counted_as_a_fault_of_the_gpu() {
    let (view, _) = stage("exit 1", quick()).given_up().await;
    assert_eq!((view.crashes, view.device_faults), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_try_again_after_it_was_given_up() {
    let stage = stage("exit 3", quick());
    stage.given_up().await;
    stage.supervisor.order(Order::Start(Profile::default())).await;
    let view = stage.until(|view| view.crashes == 6 && matches!(view.life, Life::Failed { .. })).await;
    assert_eq!(view.crashes, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_never_answers_is_ended() {
    let stage = stage("exec sleep 1000", quick());
    let (view, fault) = stage.given_up().await;
    assert_eq!((view.crashes, fault.code.as_str()), (3, "engine_silent"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("gone");
    let stage = staged(folder, program.clone(), quick());
    let (_, fault) = stage.given_up().await;
    assert!(fault.code == "spawn" && fault.message.contains(program.to_str().unwrap()), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_while_loading_ends_the_process_at_once() {
    let stage = stage("echo $$ >&2; exec sleep 1000", Policy::default());
    stage.supervisor.order(Order::Start(Profile::default())).await;
    stage.until(|view| matches!(view.life, Life::Loading { .. })).await;
    stage.supervisor.order(Order::Stop { now: false }).await;
    let view = stage.until(|view| matches!(view.life, Life::Stopped)).await;
    assert!(view.target.is_none() && view.crashes == 0);
    tokio::time::timeout(PATIENCE, stage.supervisor.shutdown()).await.expect("nothing is left to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_in_a_pause_does_not_start_another_engine() {
    let policy = Policy { first_pause: Duration::from_secs(1000), longest_pause: PATIENCE * 100, ..quick() };
    let stage = stage("exit 1", policy);
    stage.supervisor.order(Order::Start(Profile::default())).await;
    stage.until(|view| matches!(view.life, Life::Restarting { .. })).await;
    tokio::time::timeout(PATIENCE, stage.supervisor.shutdown()).await.expect("the pause is cut short");
    assert_eq!(stage.supervisor.view().borrow().crashes, 1);
}
