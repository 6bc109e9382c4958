//! A whole engine whose device breaks under it: a tiny model on an emulated device with a switch.

use std::{sync::Arc, time::Duration};

use hearth_kernels::cuda::{
    Cuda,
    emulated::{Breaker, EmulatorOptions},
};
use hearth_model::{LoadOptions, Model, synthetic::Synthetic};

use crate::{
    Depth, Engine, Event, Loaded,
    engine::End,
    policy::Policy,
    rig::request,
    status::{EnginePhase, Fault},
    step_tests::{ready, served},
};

/// An engine with a tiny model, and the switch that breaks its device.
fn engine(broken_from_the_start: bool) -> (Engine, Breaker) {
    let options = EmulatorOptions { watch: false, ..EmulatorOptions::default() };
    let breaker = options.breaker.clone();
    let switch = breaker.clone();
    let load = move |_: &crate::board::Board| {
        let source = Synthetic::named("tiny").expect("a known shape");
        let ops = Arc::new(Cuda::emulated(options).expect("the emulator opens"));
        let options = LoadOptions { context: 64, slots: 2, max_rows: 16, ..LoadOptions::default() };
        if broken_from_the_start {
            switch.trip();
        }
        let runner =
            Model::load(&source, ops, options, &mut |_| {}).map_err(crate::load_faults::model_fault)?;
        let patience = Duration::from_secs(600);
        Ok(Loaded {
            runner,
            depth: Depth::Fixed(0),
            policy: Policy::Fifo,
            patience,
            disk: None,
            served: served(),
        })
    };
    (Engine::start(load, 4).expect("starts"), breaker)
}

fn device_fault(end: End) -> Fault {
    match end {
        End::DeviceFailed(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_device_that_breaks_while_it_serves_ends_the_engine_and_every_request_is_told_in_words() {
    let (engine, breaker) = engine(false);
    ready(&engine).await;
    let mut events = engine.submit(request(&[1, 2, 3], 40)).expect("fits");
    assert!(matches!(events.recv().await, Some(Event::Token { .. })));
    let mut waiting = vec![engine.submit(request(&[4], 40)).expect("fits")];
    waiting.push(engine.submit(request(&[5], 40)).expect("waits"));
    breaker.trip();
    waiting.push(events);
    for mut events in waiting {
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        match last {
            Some(Event::Failed { fault, .. }) => {
                assert_eq!(fault.code, "device_illegal_address");
                assert!(fault.message.contains("touched memory that is not its own"), "{fault:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    let fault = device_fault(engine.ended().await);
    assert_eq!(fault.code, "device_illegal_address");
    assert!(fault.evidence.as_ref().is_some_and(|text| text.contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)")));
    assert_eq!(engine.status(0).phase, EnginePhase::Failed { fault });
    assert!(engine.submit(request(&[1], 1)).is_err());
}

#[tokio::test]
async fn a_device_that_breaks_while_the_model_loads_is_a_fault_of_the_device_and_not_of_the_model() {
    let (engine, _) = engine(true);
    assert_eq!(device_fault(engine.ended().await).code, "device_illegal_address");
}
