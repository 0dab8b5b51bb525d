from pathlib import Path

import pytest
from shown import episode_of, epoch_of, finding_of

from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.diagnose.thresholds import Thresholds

NOTICE = finding_of("amp_overflow", "model", severity="notice", number=1, step=2, message="calm.")
DEAD = finding_of("dead", "model.3.conv", number=2, step=30, message="it is dead.")
WARNING = finding_of("dead", "model.1.bn", number=3, step=40, severity="warning", message="hm.")


def report_of(*findings, status="finished", steps=1234, modules=57, epochs=None, **others):
    epochs = (epoch_of(steps=steps),) if epochs is None else epochs
    return Report(Path("runs/train"), status, steps, modules, findings, epochs, **others)


def test_a_run_without_findings_is_healthy():
    report = report_of()
    assert report.healthy
    assert report.alarms == ()
    assert report.verdict == "healthy, nothing found in 1,234 steps of 57 modules"


def test_notices_are_no_alarms():
    report = report_of(NOTICE)
    assert report.healthy
    assert report.alarms == ()
    assert report.verdict.startswith("healthy, ")


def test_one_is_no_plural():
    verdict = report_of(steps=1, modules=1).verdict
    assert verdict == "healthy, nothing found in 1 step of 1 module"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("running", "still running"),
        ("failed", "training or watch failed"),
        ("interrupted", "interrupted"),
    ],
)
def test_a_training_that_did_not_finish_says_so(status, said):
    assert report_of(status=status).verdict.endswith(f" modules, {said}")
    assert f"of 57 modules, {said})" in report_of(DEAD, status=status).verdict


@pytest.mark.parametrize(
    ("findings", "counts"),
    [
        ((DEAD,), "1 critical"),
        ((WARNING,), "1 warning"),
        ((DEAD, WARNING), "1 critical, 1 warning"),
        ((NOTICE, DEAD, WARNING, DEAD), "2 critical, 1 warning"),
    ],
)
def test_findings_are_counted_by_severity(findings, counts):
    report = report_of(*findings)
    assert not report.healthy
    assert report.verdict.startswith(f"unhealthy, {counts}; first ")


def test_the_first_alarm_is_named_and_not_a_notice_before_it():
    assert report_of(NOTICE, DEAD, WARNING).verdict == (
        "unhealthy, 1 critical, 1 warning; first dead in model.3.conv at step 30 "
        "(1,234 steps of 57 modules)"
    )


@pytest.mark.parametrize("findings", [(), (NOTICE,), (DEAD,)])
@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_there_is_no_verdict_without_a_step(findings, status):
    report = report_of(*findings, steps=0, epochs=(), status=status)
    assert report.verdict == "no verdict, because no optimizer step was watched"


def test_why_there_was_no_step():
    (reason,) = report_of(steps=0, epochs=()).facts()
    assert "nbs" in reason


def test_the_text_has_a_line_for_the_verdict_and_each_finding_and_the_facts():
    report = report_of(NOTICE, DEAD)
    assert str(report).split("\n") == [
        f"GradWatch: {report.verdict}",
        "  notice amp_overflow: calm.",
        "  critical dead: it is dead.",
        *report.facts(),
    ]


def test_a_finding_that_is_over_says_when():
    over = finding_of("dead", step_end=55, message="it was dead.")
    assert "\n  critical dead: it was dead. It was over at step 55.\n" in str(report_of(over))


def test_a_finding_says_when_it_was_reported_if_that_was_later():
    late = finding_of("dead", episodes=(episode_of(41, reported=1045),), message="it is dead.")
    assert "it is dead. Reported at step 1,045.\n" in str(report_of(late))
    assert "Reported" not in str(report_of(DEAD))


def test_a_finding_that_came_back_says_when_its_newest_episode_was_reported_and_over():
    episodes = (episode_of(7, 20, reported=9), episode_of(41, 55, reported=45))
    back = finding_of("dead", episodes=episodes, message="it was dead.")
    said = "it was dead. Reported at step 45. It was over at step 55.\n"
    assert said in str(report_of(back))


# --- limits that let more pass --------------------------------------------------------------------

LAX = Thresholds(vanishing=4.0, total_low=1e-9)
STRICT = Thresholds(vanishing=1.0, total_low=1e-2, dead_windows=2)


def test_a_run_is_not_plainly_healthy_under_laxer_limits():
    report = report_of(thresholds=LAX)
    assert report.healthy
    assert report.verdict.startswith("healthy under laxer limits than the defaults, nothing found")
    said = "  judged with laxer limits: vanishing 4 (default 2), total_low 1e-09 (default 0.001)"
    assert said in report.facts()


def test_laxer_limits_are_named_beside_findings_too():
    facts = report_of(DEAD, thresholds=LAX).facts()
    assert any("vanishing 4 (default 2)" in fact for fact in facts)


def test_stricter_limits_take_nothing_from_a_verdict():
    report = report_of(thresholds=STRICT)
    assert report.verdict == report_of().verdict
    assert report.facts() == report_of().facts()


# --- what could not be judged ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "said"), [(("collapse",), "1 rule"), (("dead_branch", "collapse"), "2 rules")]
)
def test_a_run_that_was_too_short_says_for_which_rules(rules, said):
    report = report_of(unjudged=rules)
    assert report.healthy
    assert report.verdict.endswith(f"in 1,234 steps of 57 modules; too short for {said}")
    assert report.facts()[0] == f"  too short to judge: {', '.join(rules)}"


def test_a_run_that_was_long_enough_does_not_speak_of_it():
    assert "too short" not in str(report_of())


def test_a_sick_run_that_was_too_short_says_so_below_its_findings():
    report = report_of(DEAD, unjudged=("collapse",))
    assert "too short" not in report.verdict
    assert str(report).split("\n")[2] == "  too short to judge: collapse"


def test_without_a_step_the_reason_is_told_and_not_the_rules():
    (reason,) = report_of(steps=0, epochs=(), unjudged=("dead", "collapse")).facts()
    assert "nbs" in reason


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_a_training_that_ended_before_its_first_step_does_not_blame_nbs(status):
    (reason,) = report_of(steps=0, epochs=(), status=status).facts()
    assert "nbs" not in reason


def test_a_training_that_goes_on_without_a_step_so_far_has_not_ended():
    (reason,) = report_of(steps=0, epochs=(), status="running").facts()
    assert reason == "  the training has not come to its first optimizer step yet"


# --- clipping, AMP and the owners of the norm -----------------------------------------------------


def test_clips_and_skips_are_those_of_all_epochs():
    epochs = (
        epoch_of(1, steps=10, clipped=10, skipped=1, norm_median=8.0, clip_ratio=5.0),
        epoch_of(2, steps=10, clipped=5, norm_median=1234.0, clip_ratio=1.2),
        epoch_of(2, steps=20, clipped=0, norm_median=2.0),
    )
    (fact,) = report_of(steps=40, epochs=epochs).facts()
    assert "norm 8 in the median epoch," in fact
    assert "clipped at 10 on 38% of the steps, by a factor of 3.1 in the median epoch" in fact
    assert fact.endswith("AMP skipped 1 step")


@pytest.mark.parametrize(("clip", "said"), [(10.0, "10"), (0.1, "0.1"), (1e6, "1e+06")])
def test_the_clip_is_that_of_the_trainer(clip, said):
    (fact,) = report_of(clip=clip).facts()
    assert f"clipped at {said} on" in fact


def test_only_of_a_healthy_run_clipping_is_called_normal():
    epochs = (epoch_of(steps=10, clipped=5, clip_ratio=2.0),)
    (fact,) = report_of(NOTICE, epochs=epochs).facts()
    assert "clipped at 10 on 50% of the steps, by a factor of 2 in the median epoch (normal" in fact
    (sick,) = report_of(NOTICE, WARNING, epochs=epochs).facts()
    assert sick == fact.replace(" (normal for YOLO)", "")


def test_without_a_clipped_step_there_is_no_factor():
    (fact,) = report_of(epochs=(epoch_of(steps=10),)).facts()
    assert "clipped at 10 on 0% of the steps (normal for YOLO)" in fact
    assert "factor" not in fact


@pytest.mark.parametrize(("skipped", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_skips_are_counted(skipped, said):
    (fact,) = report_of(steps=10, epochs=(epoch_of(skipped=skipped),)).facts()
    assert fact.endswith(f"AMP skipped {said}")


def test_no_finite_step_leaves_the_median_out():
    (fact,) = report_of(steps=10, epochs=(epoch_of(norm_median=None),)).facts()
    assert "median" not in fact
    assert "whole model: clipped" in fact


def test_a_run_that_was_killed_in_its_first_epoch_has_no_numbers():
    assert report_of(epochs=(), status="running").facts() == []


def test_the_owners_of_the_norm_are_a_mean_over_the_steps_of_all_epochs():
    epochs = (
        epoch_of(1, steps=10, owners={"model.0": 0.5, "model.1": 0.3, "model.2": 0.1}),
        epoch_of(2, steps=30, owners={"model.9": 0.8, "model.0": 0.1}),
    )
    _, owners = report_of(steps=40, epochs=epochs).facts()
    assert owners == "  most of the squared norm: model.9 60%, model.0 20%, model.1 8%"


def test_an_epoch_without_owners_does_not_thin_out_the_others():
    epochs = (epoch_of(1, steps=10, owners={"model.0": 0.5}), epoch_of(2, steps=30))
    _, owners = report_of(steps=40, epochs=epochs).facts()
    assert owners == "  most of the squared norm: model.0 50%"


def test_without_owners_there_is_no_line_on_them():
    assert len(report_of().facts()) == 1


def test_the_facts_stand_below_the_findings():
    epochs = (epoch_of(steps=10, owners={"model.0": 1.0}),)
    report = report_of(DEAD, epochs=epochs, unjudged=("collapse",))
    assert [line.split(":")[0] for line in str(report).split("\n")] == [
        "GradWatch",
        "  critical dead",
        "  too short to judge",
        "  gradient of the whole model",
        "  most of the squared norm",
    ]
