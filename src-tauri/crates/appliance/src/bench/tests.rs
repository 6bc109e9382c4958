//! Whole runs against an engine that is made up, and runs that other tests compare and export.

use std::time::Duration;

use hearth_engine::status::{EngineModel, EngineStatus};
use tokio::sync::{mpsc, watch};

use super::{
    fake::FakeEngine,
    figures::{self, work_out},
    suite::tests::engine,
    types::{
        BenchConditions, BenchFigureName, BenchOrder, BenchPart, BenchReading, BenchRow, BenchRowState,
        BenchRun, BenchRunState, BenchScore, BenchShot, BenchSuite, BenchTask, BenchTraffic,
    },
    *,
};
use crate::supervisor::{EngineView, Life, Supervisor, Target};

/// A cold request that wrote at this speed.
pub(super) fn timed(tok_s: f64) -> BenchShot {
    BenchShot { last_s: 0.5 + 100.0 / tok_s, ..figures::tests::shot(0, 0, 0.5, 1.0) }
}

fn conditions(engine: EngineModel) -> BenchConditions {
    let before = BenchReading {
        time_ms: 1.0,
        power_w: Some(40.0),
        temperature_c: Some(51.5),
        clock_mhz: None,
        busy: None,
        held_by: Some(vec![]),
    };
    BenchConditions {
        version: "0.1.0".into(),
        engine,
        revision: Some("abc".into()),
        formats: Vec::new(),
        profile: Some(Profile { model: "m".into(), ..Profile::default() }),
        cpu: "a processor, fast".into(),
        cores: 20,
        kernel: None,
        gpu: Some("NVIDIA GB10".into()),
        driver: Some("580.0".into()),
        roof_gb_s: Some(230.0),
        before,
        after: None,
        others: Vec::new(),
        overruled: Vec::new(),
        latency_ms: Some(0.4),
        warm_up_s: Some(2.0),
    }
}

fn of_suite(suite: BenchSuite, mut measure: impl FnMut(&mut BenchRow)) -> BenchRun {
    let engine = engine(32_768, 4, Some("auto"));
    let order = BenchOrder { suite, note: "a, \"b\"".into(), ..BenchOrder::default() };
    let mut rows = suite::plan(&order, &engine, Some(262_144));
    for row in rows.iter_mut().filter(|row| row.state == BenchRowState::Waiting) {
        measure(row);
        row.state = BenchRowState::Done;
        work_out(row);
    }
    BenchRun {
        id: 7,
        state: BenchRunState::Done,
        fault: None,
        started_ms: 1_709_210_096_000.0,
        ended_ms: Some(1_709_210_196_000.0),
        repeats: 3,
        order,
        conditions: conditions(engine),
        rows,
    }
}

/// A complete run of everything.
pub(super) fn finished_run() -> BenchRun {
    of_suite(BenchSuite::Full, |row| {
        let (output_tokens, traffic) = (row.output, row.traffic);
        row.shots = (0..3)
            .map(|repeat| BenchShot { repeat, output_tokens, ..timed(90.0 + f64::from(repeat)) })
            .collect();
        let warm = BenchShot { cold: false, cached_tokens: Some(999), ttft_s: 0.05, ..row.shots[0].clone() };
        row.shots.push(warm);
        if traffic == BenchTraffic::Facts {
            let of = if row.task == Some(BenchTask::Five) { 5 } else { 1 };
            row.score = Some(BenchScore { right: of, of });
        }
    })
}

/// Spark Arena's cells for one and two clients.
pub(super) fn arena_run() -> BenchRun {
    let mut run = of_suite(BenchSuite::Arena, |row| {
        let shot = |repeat, context_phase| BenchShot { repeat, context_phase, ..timed(80.0) };
        let phases: &[bool] = if row.depth_tokens > 0 { &[true, false] } else { &[false] };
        for (repeat, phase) in (0..3).flat_map(|repeat| phases.iter().map(move |phase| (repeat, *phase))) {
            row.shots.extend((0..row.clients).map(|_| shot(repeat, phase)));
        }
        row.peaks = vec![100.0; 3];
    });
    run.rows.retain(|row| row.clients <= 2 && row.depth_tokens <= 4096);
    run
}

struct Rig {
    engine: FakeEngine,
    benchmarks: Benchmarks,
    view: watch::Sender<EngineView>,
    _folder: tempfile::TempDir,
}

async fn rig(engine: FakeEngine) -> Rig {
    let endpoint = engine.endpoint();
    let status: EngineStatus = endpoint.status(0).await.unwrap();
    let view = EngineView {
        life: Life::Serving { since_ms: 0.0 },
        target: Some(Target { socket: engine.folder.path().join("engine"), generation: 1 }),
        status: Some(Arc::new(status)),
        ..EngineView::stopped(Profile::default())
    };
    let (tell, view) = watch::channel(view);
    let supervisor = Supervisor::pretended(view, mpsc::channel(1).0);
    let folder = tempfile::tempdir().unwrap();
    let (benchmarks, notice) =
        Benchmarks::open(&folder.path().join("benchmarks.db"), supervisor, watch::channel(Some(2e11)).1);
    assert_eq!(notice, None);
    Rig { engine, benchmarks, view: tell, _folder: folder }
}

impl Rig {
    async fn over(&self) -> BenchRun {
        let mut progress = self.benchmarks.progress();
        let over =
            progress.wait_for(|now| now.as_ref().is_some_and(|now| now.state != BenchRunState::Running));
        let over = tokio::time::timeout(Duration::from_secs(60), over).await.expect("it ends").unwrap();
        let id = over.as_ref().unwrap().id;
        drop(over);
        self.benchmarks.read(id).await.unwrap().expect("it is kept")
    }
}

fn short(parts: &[BenchPart]) -> BenchOrder {
    BenchOrder {
        suite: BenchSuite::Full,
        parts: parts.to_vec(),
        contexts: Some(vec![2048, 32_768]),
        outputs: Some(vec![16, 24]),
        clients: Some(vec![1, 3]),
        repeats: Some(2),
        ..BenchOrder::default()
    }
}

const ALL: [BenchPart; 6] = [
    BenchPart::Contexts,
    BenchPart::Prefill,
    BenchPart::Company,
    BenchPart::Depths,
    BenchPart::Agent,
    BenchPart::Facts,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_measures_every_row_that_can_be_and_keeps_it() {
    let rig = rig(FakeEngine::start().await).await;
    let first = rig.benchmarks.start(short(&ALL)).await.unwrap();
    assert_eq!((first.state, first.done), (BenchRunState::Running, 0));
    let run = rig.over().await;
    assert_eq!((run.state, run.fault.clone()), (BenchRunState::Done, None));
    for row in &run.rows {
        let wanted = if row.fault.is_some() { BenchRowState::Skipped } else { BenchRowState::Done };
        assert_eq!(row.state, wanted, "{row:?}");
        assert!(!row.disturbed);
    }
    let of = |part, nth: usize| run.rows.iter().filter(|row| row.part == part).nth(nth).unwrap();
    let figure = |row: &BenchRow, name| figures::of(row, name).cloned();
    // A prompt is as long as its context says, by the engine's own count.
    let context = of(BenchPart::Contexts, 0);
    assert!(context.shots.iter().all(|shot| shot.prompt_tokens == 2048), "{context:?}");
    assert_eq!(figure(context, BenchFigureName::TtftColdS).unwrap().values.len(), 2);
    assert_eq!(figure(context, BenchFigureName::DecodeTokS).unwrap().values.len(), 4);
    assert!(figure(of(BenchPart::Contexts, 1), BenchFigureName::TtftColdS).is_none(), "its prompt was known");
    assert!(of(BenchPart::Contexts, 2).fault.is_some());
    assert!(figure(of(BenchPart::Prefill, 0), BenchFigureName::PrefillTokS).unwrap().median > 0.0);
    let company = of(BenchPart::Company, 1);
    assert_eq!((company.clients, company.shots.len(), company.peaks.len()), (3, 6, 2));
    assert!(figure(company, BenchFigureName::TotalTokS).is_some());
    // Depth 0 drafts nothing, and deeper ones write more per round.
    let depths = measured::depths(&run.rows);
    assert_eq!(
        depths.iter().map(|d| d.depth.as_str()).collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5", "auto"]
    );
    assert!(
        depths[0].kept.is_empty() && depths[0].gain == Some(1.0) && depths[3].gain.unwrap() > 1.2,
        "{depths:?}"
    );
    assert_eq!(depths[2].kept.len(), 2);
    // They all continue the same texts: from the second depth on every prompt is known.
    let of_depths: Vec<&BenchRow> = run.rows.iter().filter(|row| row.part == BenchPart::Depths).collect();
    let cold = |row: &&&BenchRow| figures::of(row, BenchFigureName::TtftColdS).is_some();
    let cold: Vec<_> =
        of_depths.iter().filter(cold).map(|row| (row.traffic, row.mtp_depth.as_deref())).collect();
    assert_eq!(cold, [(BenchTraffic::Text, Some("0")), (BenchTraffic::Agent, Some("0"))]);
    let agent: Vec<&BenchRow> = run.rows.iter().filter(|row| row.part == BenchPart::Agent).collect();
    assert_eq!(agent.iter().map(|row| row.shots.len() as u32).collect::<Vec<_>>(), [2 * suite::TURNS; 2]);
    let facts: Vec<_> =
        run.rows.iter().filter(|row| row.part == BenchPart::Facts).filter_map(|row| row.score).collect();
    assert_eq!(
        (facts.len(), facts.iter().map(|score| score.right).sum::<u32>()),
        (5, 9),
        "this model finds all"
    );
    assert!(
        run.conditions.after.is_some()
            && run.conditions.latency_ms.is_some()
            && run.conditions.warm_up_s.is_some()
    );
    assert_eq!(run.conditions.roof_gb_s, Some(200.0));

    let list = rig.benchmarks.list().await.unwrap();
    assert_eq!((list.runs.len(), list.runs[0].done, list.runs[0].of), (1, list.runs[0].of, list.runs[0].of));
    let (speed, depths) = rig.benchmarks.measured(&Profile::default()).await;
    let speed = speed.unwrap();
    assert_eq!((speed.run, depths.len()), (Some(run.id), 7));
    assert!(
        speed.decode_tok_s > 0.0 && speed.agent_tok_s.unwrap() > 0.0 && speed.prefill_tok_s.unwrap() > 0.0
    );
    let other = Profile { kv: "fp8".into(), ..Profile::default() };
    assert_eq!(rig.benchmarks.measured(&other).await, (None, Vec::new()), "another KV type was not measured");
    let shorter = Profile { context: Some(4096), mtp_depth: "3".into(), ..Profile::default() };
    let (none, depths) = rig.benchmarks.measured(&shorter).await;
    assert_eq!((none, depths.len()), (None, 7), "depths are told whatever the profile's own is");
}

#[tokio::test(flavor = "multi_thread")]
async fn spark_arenas_cells_have_both_phases_and_the_second_knows_the_first() {
    let rig = rig(FakeEngine::start().await).await;
    let order = BenchOrder {
        suite: BenchSuite::Arena,
        contexts: Some(vec![0, 4096]),
        clients: Some(vec![2]),
        repeats: Some(1),
        ..BenchOrder::default()
    };
    rig.benchmarks.start(order).await.unwrap();
    let run = rig.over().await;
    assert_eq!(run.state, BenchRunState::Done, "{:?}", run.rows);
    let deep = &run.rows[1];
    assert_eq!((deep.depth_tokens, deep.shots.len()), (4096, 4));
    for shot in &deep.shots {
        let (prompt, known) = (shot.prompt_tokens, shot.cached_tokens.unwrap() > 4000);
        assert_eq!(
            (prompt, known),
            if shot.context_phase { (4096, false) } else { (4096 + 2048, true) },
            "{shot:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_ends_at_once_and_says_what_it_is() {
    let rig = rig(FakeEngine::with(engine(16_384, 4, Some("auto")), 30).await).await;
    assert!(!rig.benchmarks.cancel());
    rig.benchmarks.start(short(&[BenchPart::Contexts, BenchPart::Company])).await.unwrap();
    let mut progress = rig.benchmarks.progress();
    progress.wait_for(|now| now.as_ref().is_some_and(|now| now.done >= 1)).await.unwrap();
    let busy = rig.benchmarks.start(short(&[BenchPart::Agent])).await.unwrap_err();
    assert!(
        matches!(busy, NotBegun::Objection(fault) if ["bench_running", "requests_running"].contains(&fault.code.as_str()))
    );
    assert!(!rig.benchmarks.remove(1).await.unwrap(), "a run under way is not deleted");
    assert!(rig.benchmarks.cancel());
    let run = rig.over().await;
    assert_eq!(run.state, BenchRunState::Cancelled);
    let count = |state| run.rows.iter().filter(|row| row.state == state).count();
    assert!(
        count(BenchRowState::Done) >= 1
            && count(BenchRowState::Waiting) >= 1
            && count(BenchRowState::Running) == 0
    );
    assert!(run.rows.iter().all(|row| row.state == BenchRowState::Done || row.shots.is_empty()));
    // The request under way is given up, and the next run is not cancelled by what was said to this one.
    tokio::time::timeout(Duration::from_secs(5), async {
        while rig.engine.running() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the engine is free again");
    rig.benchmarks.start(BenchOrder { repeats: Some(1), ..short(&[BenchPart::Prefill]) }).await.unwrap();
    assert_eq!(rig.over().await.state, BenchRunState::Done);
    assert!(rig.benchmarks.remove(1).await.unwrap() && !rig.benchmarks.remove(1).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_measured_beside_others_unless_told_and_then_it_is_written_down() {
    let rig = rig(FakeEngine::start().await).await;
    rig.engine.serve_somebody_else();
    let order = BenchOrder { repeats: Some(1), ..short(&[BenchPart::Prefill]) };
    let refused = rig.benchmarks.start(order.clone()).await.unwrap_err();
    assert!(matches!(refused, NotBegun::Objection(fault) if fault.code == "requests_running"));
    assert_eq!(rig.engine.asked(), 0);
    rig.benchmarks.start(BenchOrder { anyway: true, ..order }).await.unwrap();
    let run = rig.over().await;
    let codes: Vec<_> = run.conditions.overruled.iter().map(|fault| fault.code.as_str()).collect();
    assert_eq!((run.state, codes), (BenchRunState::Done, vec!["requests_running"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_beside_which_somebody_was_served_is_marked() {
    let rig = rig(FakeEngine::start().await).await;
    rig.benchmarks.start(BenchOrder { repeats: Some(1), ..short(&[BenchPart::Prefill]) }).await.unwrap();
    let mut progress = rig.benchmarks.progress();
    progress.wait_for(|now| now.as_ref().is_some_and(|now| now.done >= 1)).await.unwrap();
    rig.engine.disturb();
    let run = rig.over().await;
    assert!(
        run.rows.iter().any(|row| row.disturbed) && run.rows.iter().any(|row| !row.disturbed),
        "{:?}",
        run.rows
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_ends_the_run_with_what_it_said_and_no_figure_is_made_up() {
    let rig = rig(FakeEngine::start().await).await;
    rig.engine.fail_after(12);
    rig.benchmarks.start(BenchOrder { repeats: Some(1), ..short(&ALL) }).await.unwrap();
    let run = rig.over().await;
    assert_eq!(run.state, BenchRunState::Failed);
    assert!(run.fault.unwrap().message.contains("It failed."));
    let failed: Vec<_> = run.rows.iter().filter(|row| row.state == BenchRowState::Failed).collect();
    assert!(failed.len() >= 3 && failed.iter().all(|row| row.figures.is_empty() && row.fault.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_another_profile_is_started() {
    let rig = rig(FakeEngine::start().await).await;
    rig.benchmarks.start(short(&ALL)).await.unwrap();
    let mut progress = rig.benchmarks.progress();
    progress.wait_for(|now| now.as_ref().is_some_and(|now| now.done >= 1)).await.unwrap();
    rig.view.send_modify(|view| view.profile.kv = "fp8".into());
    let run = rig.over().await;
    assert_eq!((run.state, run.fault.unwrap().code.as_str()), (BenchRunState::Failed, "profile_changed"));
    assert!(run.rows.iter().any(|row| row.state == BenchRowState::Waiting));
}

#[tokio::test]
async fn a_run_that_an_appliance_did_not_live_to_end_is_labelled_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("benchmarks.db");
    let (mut store, _) = Store::open_or_begin(&path);
    let mut run = BenchRun { state: BenchRunState::Running, ended_ms: None, ..finished_run() };
    store.begin(&mut run).unwrap();
    assert_eq!(run.id, 1);
    drop(store);
    let (mut store, notice) = Store::open_or_begin(&path);
    store.end_orphans().unwrap();
    let read = store.read(1).unwrap().unwrap();
    assert_eq!((notice, read.state), (None, BenchRunState::Failed));
    assert_eq!(read.fault.unwrap().code, "bench_broken_off");
    assert_eq!(store.list().unwrap()[0].state, BenchRunState::Failed);
    std::fs::write(&path, [0xff; 4096]).unwrap();
    drop(store);
    std::fs::write(&path, [0xff; 4096]).unwrap();
    let (_, notice) = Store::open_or_begin(&path);
    assert_eq!(notice.expect("it is told").code, "benchmarks_moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_an_appliance_is_measured_over_tcp() {
    let engine = FakeEngine::start().await;
    let mut told = Vec::new();
    let order = BenchOrder { repeats: Some(1), ..short(&[BenchPart::Prefill]) };
    let mut tell = |_: &BenchRun, progress: BenchProgress| told.push(progress.done);
    let run = measure(&engine.tcp.to_string(), None, order.clone(), &mut tell).await.unwrap();
    assert_eq!((run.state, run.conditions.profile), (BenchRunState::Done, None));
    assert!(told.len() > 3 && told.windows(2).all(|pair| pair[0] <= pair[1]), "{told:?}");
    let error = measure("127.0.0.1:9", None, order, &mut |_, _| {}).await.unwrap_err();
    assert_eq!(error.code, "bench_no_answer");
}
