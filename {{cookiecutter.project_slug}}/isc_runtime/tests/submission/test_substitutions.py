"""What a shell puts into a command ends none of its words: what comes after it is looked at as well."""

from __future__ import annotations

import pytest

from isc_runtime.tests.submission.test_launch_command import HOME, START, assert_one, found

MISTAKES = {
    "--fresh after one": (f"{START} --seed $(cat /root/seed) --fresh", "--fresh would start over", "Delete"),
    "an option after one": (f"{START} --seed $(date +%s) --epochz 1", "no argument --epochz", "--epochs"),
    "after arithmetic": (f"{START} --seed $(( (1 + 2) * 3 )) --local", "--local would save", "Delete it"),
    "after one in another": (f"{START} --seed $(echo $(date +%s)) --fresh", "--fresh would", "Delete it"),
    "within it": (f"{START} --seed $(bash seed.sh)", "seed.sh is relative", f"write {HOME}"),
    "open": (f"{START} --seed $(cat /root/seed", "No shell can read", "Close"),
}
ACCEPTED = [
    f"{START} --epochs $((2 * 3))",
    f"{START} --epochs $(( (1 + 2) * 3 )) --seed 1",
    f"{START} > >(tee -a $OUTPUT_PATH/log) 2> >(cat >&2)",
    f"{START} --seed $(date +%s)",
    f"cd $(dirname {HOME}/train.py) && bash launch.sh --dataset-id uds-one",
    f"echo '$(' && {START}",
    f"pushd {HOME} && bash launch.sh --dataset-id uds-one",
]


@pytest.mark.parametrize(("command", "what", "hint"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_beside_a_substitution_is_found(command: str, what: str, hint: str) -> None:
    assert_one(found(command), "error", what, hint)


@pytest.mark.parametrize("command", ACCEPTED)
def test_a_substitution_is_no_mistake(command: str) -> None:
    assert found(command) == []
