use proptest::prelude::*;
use xylem_types::instance::InstanceStatus;

use super::*;
use crate::core::outcome::ExitKind;

const TIMING: Timing = Timing {
    attach_within: Duration::from_secs(30),
    attach_retry: Duration::from_secs(1),
    stop_grace: Duration::from_secs(10),
};

fn command(generation: Generation) -> Box<DeployCommand> {
    Box::new(DeployCommand {
        job_name: "app.ns.web.prod".into(),
        instance_number: 0,
        generation,
        virtualization: "docker".into(),
        image: "oci:/images/web".into(),
        memory: 0,
        vcpus: 0.0,
        cmd: vec![],
        environment: vec![],
        one_shot: false,
        privileged: false,
        port: String::new(),
    })
}

/// Feeds events in turn; returns the last phase and all effects.
fn run(phase: Phase, events: impl IntoIterator<Item = Event>) -> (Phase, Vec<Effect>) {
    let now = Instant::now();
    let mut all = vec![];
    let phase = events.into_iter().fold(phase, |phase, event| {
        let (phase, effects) = step(phase, event, now, &TIMING);
        all.extend(effects);
        phase
    });
    (phase, all)
}

fn running(generation: Generation) -> Phase {
    Phase::Running { command: command(generation) }
}

fn to_running(generation: Generation) -> [Event; 5] {
    [
        Event::Deploy(command(generation)),
        Event::Prepared(Ok(())),
        Event::Created(Ok(7)),
        Event::Attached(Ok(())),
        Event::Started(Ok(())),
    ]
}

#[test]
fn the_network_is_attached_before_the_first_process_starts() {
    let (phase, effects) = run(Phase::Vacant, to_running(3));
    assert_eq!(phase, running(3));
    assert_eq!(
        effects,
        [Effect::Prepare, Effect::Create, Effect::Attach { pid: 7 }, Effect::Start]
    );
}

#[test]
fn the_same_generation_changes_nothing_in_any_phase() {
    let mut phase = Phase::Vacant;
    for event in to_running(3) {
        (phase, _) = run(phase, [event]);
        let (again, effects) = run(phase.clone(), [Event::Deploy(command(3))]);
        assert_eq!((again, effects), (phase.clone(), vec![]));
    }
}

#[test]
fn an_older_generation_is_refused() {
    let (phase, effects) = run(running(3), [Event::Deploy(command(2))]);
    assert_eq!(phase, running(3));
    assert_eq!(effects, [Effect::Refuse { generation: 2, current: 3 }]);

    let (phase, effects) = run(running(3), [Event::Delete { generation: Some(2) }]);
    assert_eq!(phase, running(3));
    assert_eq!(effects, [Effect::ReportGone { generation: 2 }]);
}

#[test]
fn a_newer_generation_replaces_the_running_one_after_it_ended() {
    let exit = Exit { how: ExitKind::Signal(15), out_of_memory: false };
    let (phase, effects) = run(running(3), [Event::Deploy(command(4)), Event::Exited(exit)]);
    assert_eq!(effects, [Effect::Terminate, Effect::Clear]);
    assert_eq!(status(&phase).unwrap().generation, 4);

    let (phase, effects) = run(phase, [Event::Cleared]);
    assert_eq!(phase, Phase::Preparing { command: command(4) });
    assert_eq!(effects, [Effect::Prepare]);
}

#[test]
fn an_instance_that_does_not_end_in_time_is_killed() {
    let start = Instant::now();
    let (phase, effects) = step(running(1), Event::Delete { generation: None }, start, &TIMING);
    assert_eq!(effects, [Effect::Terminate]);
    assert_eq!(deadline(&phase), Some(start + TIMING.stop_grace));

    let (phase, effects) = step(phase, Event::Tick, start + Duration::from_secs(9), &TIMING);
    assert_eq!(effects, []);
    let (_, effects) = step(phase, Event::Tick, start + Duration::from_secs(10), &TIMING);
    assert_eq!(effects, [Effect::Kill]);
}

#[test]
fn a_silent_net_manager_is_waited_for_and_named_and_then_fails_the_deployment() {
    let start = Instant::now();
    let (phase, _) = run(Phase::Vacant, to_running(1).into_iter().take(3));
    let silent = || Event::Attached(Err(AttachFailure::Unavailable("no net manager at S".into())));

    let (phase, effects) = step(phase, silent(), start, &TIMING);
    assert_eq!(effects, []);
    assert_eq!(status(&phase).unwrap().detail, "no net manager at S");
    assert_eq!(deadline(&phase), Some(start + TIMING.attach_retry));

    let (phase, effects) = step(phase, Event::Tick, start + TIMING.attach_retry, &TIMING);
    assert_eq!(effects, [Effect::Attach { pid: 7 }]);

    let late = start + TIMING.attach_within + Duration::from_secs(1);
    let (phase, effects) = step(phase, silent(), late, &TIMING);
    assert_eq!(effects, [Effect::Clear]);
    let report = status(&phase).unwrap();
    assert_eq!(
        (report.status, report.detail.as_str()),
        (InstanceStatus::Failed, "no net manager at S")
    );
}

#[test]
fn a_failure_is_reported_with_its_cause_and_kept_after_clearing() {
    let (phase, effects) = run(
        Phase::Vacant,
        [Event::Deploy(command(1)), Event::Prepared(Err("no such image".into())), Event::Cleared],
    );
    assert_eq!(effects, [Effect::Prepare, Effect::Clear]);
    let report = status(&phase).unwrap();
    assert_eq!((report.status, report.detail.as_str()), (InstanceStatus::Failed, "no such image"));
}

#[test]
fn a_deletion_waits_for_the_operation_under_way_but_not_for_the_image() {
    let (phase, effects) =
        run(Phase::Vacant, [Event::Deploy(command(1)), Event::Delete { generation: None }]);
    assert_eq!(effects, [Effect::Prepare, Effect::Clear]);
    assert_eq!(status(&phase), None);

    let (phase, _) = run(Phase::Vacant, to_running(1).into_iter().take(3));
    let (phase, effects) = run(phase, [Event::Delete { generation: None }]);
    assert_eq!(effects, [], "the net manager may be attaching it at this moment");
    let (_, effects) = run(phase, [Event::Attached(Ok(())), Event::Cleared]);
    assert_eq!(effects, [Effect::Clear, Effect::ReportGone { generation: 1 }]);
}

#[test]
fn deleting_what_is_not_there_is_confirmed() {
    let (phase, effects) = run(Phase::Vacant, [Event::Delete { generation: Some(9) }]);
    assert_eq!(phase, Phase::Vacant);
    assert_eq!(effects, [Effect::ReportGone { generation: 9 }]);
}

#[test]
fn a_restarted_engine_adopts_what_runs_and_does_over_what_did_not_run_yet() {
    let now = Instant::now();
    let (phase, effects) = resume(record(&running(2)).unwrap(), now, &TIMING);
    assert_eq!((phase, effects), (running(2), vec![Effect::Reconnect]));

    let (half, _) = run(Phase::Vacant, to_running(2).into_iter().take(4));
    let (phase, effects) = resume(record(&half).unwrap(), now, &TIMING);
    assert_eq!(effects, [Effect::Clear]);
    let (phase, effects) = run(phase, [Event::Cleared]);
    assert_eq!(phase, Phase::Preparing { command: command(2) });
    assert_eq!(effects, [Effect::Prepare]);
}

#[test]
fn a_lost_shim_is_noticed() {
    let (phase, effects) = run(running(1), [Event::Lost, Event::Cleared]);
    assert_eq!(effects, [Effect::Clear]);
    assert_eq!(status(&phase).unwrap().status, InstanceStatus::Dead);
}

/// The worker as the effects leave it.
#[derive(Debug)]
struct World {
    phase: Phase,
    now: Instant,
    operation: Option<Effect>,
    process: bool,
    attached: bool,
    asked_to_end: bool,
}

#[derive(Clone, Debug)]
enum Act {
    Deploy(Generation),
    Delete(Option<Generation>),
    Answer(bool),
    Exit,
    Pass(u64),
    RestartEngine,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..4u64).prop_map(Act::Deploy),
        2 => prop::option::of(0..4u64).prop_map(Act::Delete),
        8 => prop::bool::weighted(0.8).prop_map(Act::Answer),
        1 => Just(Act::Exit),
        2 => (0..40u64).prop_map(Act::Pass),
        1 => Just(Act::RestartEngine),
    ]
}

impl World {
    fn new() -> Self {
        Self {
            phase: Phase::Vacant,
            now: Instant::now(),
            operation: None,
            process: false,
            attached: false,
            asked_to_end: false,
        }
    }

    fn feed(&mut self, event: Event) {
        let phase = std::mem::replace(&mut self.phase, Phase::Vacant);
        let (phase, effects) = step(phase, event, self.now, &TIMING);
        self.phase = phase;
        self.obey(effects);
    }

    fn obey(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Prepare
                | Effect::Create
                | Effect::Attach { .. }
                | Effect::Start
                | Effect::Clear => {
                    assert!(
                        matches!(self.operation, None | Some(Effect::Prepare | Effect::Start)),
                        "{effect:?} while {:?} is under way",
                        self.operation
                    );
                    self.operation = Some(effect);
                }
                Effect::Terminate | Effect::Kill => self.asked_to_end = true,
                Effect::Reconnect if !self.process => self.feed(Event::Lost),
                Effect::Reconnect | Effect::ReportGone { .. } | Effect::Refuse { .. } => {}
            }
        }
    }

    fn answer(&mut self, well: bool) {
        let Some(operation) = self.operation.take() else { return };
        let result = if well { Ok(()) } else { Err("no".to_owned()) };
        match operation {
            Effect::Prepare => self.feed(Event::Prepared(result)),
            Effect::Create => {
                self.process = well;
                self.feed(Event::Created(result.map(|()| 7)));
            }
            Effect::Attach { .. } => {
                self.attached |= well;
                self.feed(Event::Attached(result.map_err(AttachFailure::Unavailable)));
            }
            Effect::Start if self.process => {
                self.feed(Event::Started(result));
                if !well {
                    self.exit();
                }
            }
            Effect::Start => {}
            Effect::Clear => {
                self.process = false;
                self.attached = false;
                self.asked_to_end = false;
                self.feed(Event::Cleared);
            }
            other => panic!("{other:?} has no answer"),
        }
    }

    fn exit(&mut self) {
        if std::mem::take(&mut self.process) {
            self.feed(Event::Exited(Exit { how: ExitKind::Code(1), out_of_memory: false }));
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Deploy(generation) => self.feed(Event::Deploy(command(generation))),
            Act::Delete(generation) => self.feed(Event::Delete { generation }),
            Act::Answer(well) => self.answer(well),
            Act::Exit => self.exit(),
            Act::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.feed(Event::Tick);
            }
            Act::RestartEngine => {
                self.operation = None;
                if let Some(record) = record(&self.phase) {
                    let (phase, effects) = resume(record, self.now, &TIMING);
                    self.phase = phase;
                    self.obey(effects);
                }
            }
        }
    }

    /// Everything goes well from now on.
    fn settle(&mut self) {
        for _ in 0..50 {
            if self.operation.is_some() {
                self.answer(true);
            } else if self.asked_to_end {
                self.asked_to_end = false;
                self.exit();
            } else if let Some(at) = deadline(&self.phase) {
                self.now = self.now.max(at);
                self.feed(Event::Tick);
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_left_over_after_any_order_of_events(acts in prop::collection::vec(act(), 0..60)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.settle();
        let runs = matches!(world.phase, Phase::Running { .. });
        prop_assert!(runs || matches!(world.phase, Phase::Vacant | Phase::Ended { .. }), "{world:?}");
        prop_assert_eq!((world.process, world.attached), (runs, runs), "{:?}", world);
    }

    #[test]
    fn the_last_word_counts(acts in prop::collection::vec(act(), 0..40), deploy: bool) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        if deploy {
            world.act(Act::Deploy(9));
            world.settle();
            prop_assert_eq!(&world.phase, &running(9));
        } else {
            world.act(Act::Delete(None));
            world.settle();
            prop_assert_eq!(&world.phase, &Phase::Vacant);
        }
    }
}
