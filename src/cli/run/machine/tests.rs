//! Sequences of events, with the actions that follow. No command is run, and no tracker is called.

use super::*;

/// Sends a sequence of events to a new machine. Fails unless each event has the listed actions.
fn play(settings: Settings, first: &Action, story: &[(Event, &[Action])]) {
    let (mut machine, action) = Machine::new(settings);
    assert_eq!(action, *first);
    for (at, (event, expected)) in story.iter().enumerate() {
        assert_eq!(machine.on(event.clone()), *expected, "after event {at}: {event:?}");
    }
}

fn plain(story: &[(Event, &[Action])]) {
    play(Settings::default(), &Action::Start, story);
}

const STRICT: Settings = Settings { strict: true, retries: 0 };
const DONE: Ending = Ending::Exited(0);
const FAILED: Ending = Ending::Exited(3);
const KILLED: Ending = Ending::Signalled(9);
const STOPPED: [Action; 2] = [Action::Terminate, Action::Set(Timer::Grace)];

fn warn(text: &str) -> Action {
    Action::Warn(text.to_owned())
}

#[test]
fn command_ends_and_its_end_is_reported() {
    for (ending, end, code) in
        [(DONE, End::Complete, 0), (FAILED, End::Fail(FAILED), 3), (KILLED, End::Fail(KILLED), 137)]
    {
        plain(&[
            (Event::Ended(ending), &[Action::Drain]),
            (Event::Drained, &[Action::Report(end)]),
            (Event::Reported, &[Action::Exit(code)]),
        ]);
    }
}

#[test]
fn cancelled_command_is_stopped_and_confirmed() {
    plain(&[
        (Event::Cancelled, &STOPPED),
        (Event::Cancelled, &[]),
        (Event::Ended(Ending::Signalled(15)), &[Action::Clear]),
        (Event::Cleared, &[Action::Unset(Timer::Grace), Action::Drain]),
        (Event::Drained, &[Action::Report(End::ConfirmCancel)]),
        (Event::Reported, &[Action::Exit(143)]),
    ]);
}

#[test]
fn cancelled_command_that_ends_well_has_succeeded() {
    plain(&[
        (Event::Cancelled, &STOPPED),
        (Event::Ended(DONE), &[Action::Clear]),
        (Event::Cleared, &[Action::Unset(Timer::Grace), Action::Drain]),
        (Event::Drained, &[Action::Report(End::Complete)]),
        (Event::Reported, &[Action::Exit(0)]),
    ]);
}

#[test]
fn command_that_does_not_stop_is_killed_and_so_are_processes_that_it_leaves() {
    plain(&[
        (Event::Cancelled, &STOPPED),
        (Event::Expired(Timer::Grace), &[Action::Kill]),
        (Event::Ended(KILLED), &[Action::Clear]),
        (Event::Cleared, &[Action::Unset(Timer::Grace), Action::Drain]),
    ]);
    plain(&[
        (Event::Cancelled, &STOPPED),
        (Event::Ended(Ending::Signalled(15)), &[Action::Clear]),
        (Event::Expired(Timer::Grace), &[Action::Kill]),
        (Event::Cleared, &[Action::Unset(Timer::Grace), Action::Drain]),
    ]);
}

#[test]
fn events_that_come_too_late_change_nothing() {
    plain(&[
        (Event::Expired(Timer::Grace), &[]),
        (Event::Cleared, &[]),
        (Event::Drained, &[]),
        (Event::Ended(DONE), &[Action::Drain]),
        (Event::Cancelled, &[]),
        (Event::Expired(Timer::Grace), &[]),
        (Event::Drained, &[Action::Report(End::Complete)]),
        (Event::Cancelled, &[]),
        (Event::Reported, &[Action::Exit(0)]),
        (Event::Reported, &[]),
        (Event::Interrupted, &[]),
    ]);
}

#[test]
fn unavailable_tracker_costs_one_warning() {
    let trouble = || Event::Trouble("away".to_owned());
    plain(&[
        (trouble(), &[Action::Set(Timer::Trouble)]),
        (Event::TroubleOver, &[Action::Unset(Timer::Trouble)]),
        (Event::Expired(Timer::Trouble), &[]),
        (trouble(), &[Action::Set(Timer::Trouble)]),
        (Event::Expired(Timer::Trouble), &[warn("away")]),
        (trouble(), &[]),
        (Event::Ended(DONE), &[Action::Drain]),
        (Event::Drained, &[Action::Report(End::Complete)]),
        (Event::NotReported("lost".to_owned(), Exit::Unavailable), &[Action::Exit(0)]),
    ]);
}

#[test]
fn warning_comes_at_the_end_if_the_command_is_short() {
    plain(&[
        (Event::Trouble("away".to_owned()), &[Action::Set(Timer::Trouble)]),
        (Event::Ended(FAILED), &[Action::Drain]),
        (Event::Drained, &[warn("away"), Action::Report(End::Fail(FAILED))]),
        (Event::NotReported("lost".to_owned(), Exit::Unavailable), &[Action::Exit(3)]),
    ]);
    plain(&[
        (Event::Ended(DONE), &[Action::Drain]),
        (Event::Drained, &[Action::Report(End::Complete)]),
        (Event::NotReported("lost".to_owned(), Exit::Unavailable), &[warn("lost"), Action::Exit(0)]),
    ]);
}

#[test]
fn job_that_is_lost_does_not_stop_its_command() {
    plain(&[
        (Event::Lost("fenced".to_owned()), &[warn("fenced; the command continues untracked")]),
        (Event::Lost("fenced".to_owned()), &[]),
        (Event::Ended(FAILED), &[Action::Drain]),
        (Event::Drained, &[Action::Exit(3)]),
    ]);
}

#[test]
fn job_that_was_cancelled_by_force_stops_its_command_and_needs_no_end() {
    plain(&[
        (Event::CancelledByForce, &STOPPED),
        (Event::Ended(Ending::Signalled(15)), &[Action::Clear]),
        (Event::Cleared, &[Action::Unset(Timer::Grace), Action::Drain]),
        (Event::Drained, &[Action::Exit(143)]),
    ]);
}

#[test]
fn strict_command_starts_when_its_job_is_claimed() {
    play(STRICT, &Action::Claim, &[(Event::Claimed, &[Action::Start]), (Event::Claimed, &[])]);
    play(
        STRICT,
        &Action::Claim,
        &[(
            Event::ClaimFailed("away".to_owned(), Exit::Unavailable),
            &[warn("away; the command was not started"), Action::Exit(5)],
        )],
    );
    play(STRICT, &Action::Claim, &[(Event::Interrupted, &[Action::Exit(130)])]);
}

#[test]
fn strict_command_fails_with_its_report_and_stops_with_its_job() {
    play(
        STRICT,
        &Action::Claim,
        &[
            (Event::Claimed, &[Action::Start]),
            (Event::Ended(DONE), &[Action::Drain]),
            (Event::Drained, &[Action::Report(End::Complete)]),
            (Event::NotReported("lost".to_owned(), Exit::Unavailable), &[warn("lost"), Action::Exit(5)]),
        ],
    );
    let warning = warn("fenced; the command is stopped");
    play(
        STRICT,
        &Action::Claim,
        &[
            (Event::Claimed, &[Action::Start]),
            (Event::Lost("fenced".to_owned()), &[warning, Action::Terminate, Action::Set(Timer::Grace)]),
            (Event::Ended(DONE), &[Action::Clear]),
            (Event::Cleared, &[Action::Unset(Timer::Grace), Action::Drain]),
            (Event::Drained, &[Action::Exit(1)]),
        ],
    );
}

#[test]
fn failed_command_is_started_again_as_often_as_allowed() {
    let settings = Settings { strict: false, retries: 1 };
    play(
        settings,
        &Action::Start,
        &[
            (Event::Ended(FAILED), &[Action::Drain]),
            (Event::Drained, &[Action::Report(End::Retry(FAILED))]),
            (Event::Reported, &[Action::Start]),
            (Event::Ended(KILLED), &[Action::Drain]),
            (Event::Drained, &[Action::Report(End::Fail(KILLED))]),
            (Event::Reported, &[Action::Exit(137)]),
        ],
    );
    for event in [Event::Interrupted, Event::Lost("x".to_owned())] {
        let (mut machine, _) = Machine::new(settings);
        let is_lost = matches!(event, Event::Lost(_));
        machine.on(event);
        machine.on(Event::Ended(FAILED));
        let next = machine.on(Event::Drained);
        let expected = if is_lost { Action::Start } else { Action::Report(End::Fail(FAILED)) };
        assert_eq!(next, [expected]);
    }
    play(
        settings,
        &Action::Start,
        &[
            (Event::Ended(Ending::Exited(127)), &[Action::Drain]),
            (Event::Drained, &[Action::Report(End::Fail(Ending::Exited(127)))]),
        ],
    );
}

#[test]
fn nobody_waits_for_the_report_after_a_signal() {
    plain(&[
        (Event::Interrupted, &[]),
        (Event::Ended(Ending::Signalled(2)), &[Action::Drain]),
        (Event::Drained, &[Action::Report(End::Fail(Ending::Signalled(2)))]),
        (Event::Interrupted, &[Action::Exit(130)]),
    ]);
}

#[test]
fn no_order_of_events_starts_two_commands_or_ends_twice() {
    let events = [
        Event::Claimed,
        Event::Ended(FAILED),
        Event::Cleared,
        Event::Drained,
        Event::Cancelled,
        Event::CancelledByForce,
        Event::Lost("x".to_owned()),
        Event::Trouble("x".to_owned()),
        Event::Interrupted,
        Event::Expired(Timer::Grace),
        Event::Reported,
        Event::NotReported("x".to_owned(), Exit::Failed),
    ];
    for settings in [Settings::default(), STRICT, Settings { strict: false, retries: 2 }] {
        for order in 0..events.len().pow(4) {
            let (mut machine, first) = Machine::new(settings);
            let (mut running, mut exits) = (i32::from(first == Action::Start), 0);
            for digit in 0..4 {
                let event = &events[order / events.len().pow(digit) % events.len()];
                // A command that does not run can't end.
                if matches!(event, Event::Ended(_)) && running == 0 {
                    continue;
                }
                running -= i32::from(matches!(event, Event::Ended(_)));
                for action in machine.on(event.clone()) {
                    running += i32::from(action == Action::Start);
                    exits += i32::from(matches!(action, Action::Exit(_)));
                }
                assert!(running <= 1 && exits <= 1, "order {order}");
            }
        }
    }
}
