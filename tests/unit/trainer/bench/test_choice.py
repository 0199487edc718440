"""The choice among the trials of `bevt tune`."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.bench.choice import LoaderTrial, StepTrial, choose_step, choose_workers, settings, speedup

MS = st.floats(0.1, 1e5)


def step(number: int, step_ms: float | None, *, checkpointed: bool = False, default: bool = False) -> StepTrial:
    return StepTrial(
        number, 64 // number, checkpointed, "does not fit" if step_ms is None else "measured", default, step_ms
    )


def test_the_fastest_step_that_fits() -> None:
    trials = [step(4, 90.0), step(2, 80.0, default=True), step(1, None), step(1, 60.0, checkpointed=True)]
    chosen = choose_step(trials)
    assert chosen is trials[3] and speedup(trials, chosen) == 80 / 60
    assert settings(chosen, LoaderTrial(3, False, 61.0, 0.1), 8) == [
        "loop.micro_batches=1",
        "loop.processes=8",
        "loop.activation_checkpointing=true",
        "loop.num_workers=3",
    ]


def test_equal_times_change_nothing_and_else_take_the_least() -> None:
    assert choose_step([step(4, 100.0), step(2, 101.0, default=True), step(1, 99.5)]).micro_batches == 2  # type: ignore[union-attr]
    assert choose_step([step(4, 100.0), step(1, 99.5), step(2, 130.0, default=True)]).micro_batches == 4  # type: ignore[union-attr]
    workers = [LoaderTrial(number, False, ms, 0.0) for number, ms in ((0, 90.0), (1, 50.4), (2, 50.0))]
    assert choose_workers(workers) is workers[1]


def test_without_a_trial_nothing_is_set() -> None:
    assert choose_step([step(1, None, default=True)]) is None and choose_workers([]) is None
    assert settings(None, None, 1) == [] and speedup([step(1, None, default=True)], None) is None


@given(st.lists(st.tuples(st.none() | MS, st.booleans()), min_size=1, max_size=12), st.integers(0, 11))
def test_the_choice_is_never_slower_than_the_default(table: list[tuple[float | None, bool]], default: int) -> None:
    trials = [
        step(number + 1, ms, checkpointed=checkpointed, default=number == default % len(table))
        for number, (ms, checkpointed) in enumerate(table)
    ]
    chosen = choose_step(trials)
    times = [trial.step_ms for trial in trials if trial.step_ms is not None]
    assert (chosen is None) == (not times)
    if chosen is not None and chosen.step_ms is not None:
        assert chosen.step_ms <= 1.02 * min(times)
        assert (speedup(trials, chosen) or 1.0) >= 1.0
