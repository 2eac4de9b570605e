"""When an entry is repeated, left, or the campaign has converged."""

from types import SimpleNamespace

import pytest

from pwact_like.workflows.convergence import IterationFacts, next_entry


def rule(**changes):
    return SimpleNamespace(**({"accurate_fraction": 0.9, "force_rmse_target": None, "plateau": 0.05, "max_repeats": 3} | changes))


def facts(entry=0, accurate=95, labelled=5, force_rmse=0.1, planned=100):
    return IterationFacts(entry=entry, frames_planned=planned, accurate=accurate, labelled=labelled, force_rmse=force_rmse)


def test_without_a_rule_every_entry_is_explored_once():
    assert next_entry([], 2, None).entry == 0
    assert next_entry([facts(0, accurate=0)], 2, None).entry == 1
    end = next_entry([facts(0), facts(1)], 2, None)
    assert end.entry is None and end.state == "finished"


def test_accurate_fraction_is_of_the_planned_frames():
    # 50 frames were written, all accurate, but 100 were planned: a run that died early is no convergence
    after = next_entry([facts(accurate=50, force_rmse=0.1), facts(accurate=50, force_rmse=0.1)], 1, rule())
    assert after.entry == 0 and "0.500" in after.reason


def test_plateau_needs_an_earlier_model():
    assert next_entry([facts()], 1, rule()).entry == 0
    end = next_entry([facts(force_rmse=0.1), facts(force_rmse=0.098)], 1, rule())
    assert end.entry is None and end.state == "converged" and "plateau" in end.reason


def test_a_falling_error_goes_on():
    assert next_entry([facts(force_rmse=0.2), facts(force_rmse=0.1)], 1, rule()).entry == 0


def test_target_ends_at_once():
    end = next_entry([facts(force_rmse=0.04)], 1, rule(force_rmse_target=0.05))
    assert end.state == "converged" and "0.05" in end.reason


def test_no_new_labels_end_the_entry():
    assert next_entry([facts(accurate=100, labelled=0)], 1, rule()).state == "converged"


def test_all_failed_is_not_convergence():
    assert next_entry([facts(accurate=0, labelled=0)] * 2, 1, rule()).entry == 0


def test_max_repeats_leaves_an_entry_and_says_that_it_did_not_converge():
    after = next_entry([facts(accurate=10)] * 3, 2, rule())
    assert after.entry == 1 and "not converged after 3" in after.reason
    end = next_entry([facts(accurate=10)] * 3, 1, rule())
    assert end.entry is None and end.state == "finished"


def test_repeats_count_the_present_entry_only():
    history = [facts(0, force_rmse=0.1), facts(0, force_rmse=0.1), facts(1, accurate=10)]
    assert next_entry(history, 2, rule()).entry == 1


def test_without_a_test_set_the_accurate_fraction_decides():
    end = next_entry([facts(force_rmse=None)], 1, rule())
    assert end.state == "converged" and "no test set" in end.reason


@pytest.mark.parametrize("planned", [0])
def test_nothing_planned_does_not_divide_by_zero(planned):
    assert next_entry([facts(accurate=0, planned=planned)], 1, rule()).entry == 0
