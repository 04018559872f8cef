"""What an experiment on the ISC needs and no researcher wants to write.

It is the template's, and moves on with it: update it, do not edit it. Seven wings over one ground floor:

    __main__                      the commands: python -m isc_runtime check | checkpoints | export | ...
    preflight  rehearsal  record  is this place ready to train in? experiment.isc, run here as the ISC would;
                                  what a start is, kept beside its curves
    checkpointing  submission     saving and resuming; is this project ready to submit?
    training  explanation         what the loop of train.py is made of; from a failed experiment to its cause
    ranks                         one falls, all fall: the process group, signals, replicas and shards
    sampler  logs  environment  options  and what these stand on: the ground floor
    tracking                      where curves go: TensorBoard, Weights & Biases, MLflow
    tests                         of all this, in the same wings

A module imports only from floors below its own, and a wing's own floors are in its `__init__.py`, which
imports nothing. import-linter holds the plan (`make lint`, contracts in pyproject.toml): also that `check`,
`checkpoints`, `preflight` and a refusal answer before torch is imported, which takes seconds.
"""

import sys

__version__ = "0.2.0"

# Here, because this is imported before everything else.
if sys.version_info < (3, 10):  # noqa: UP036
    found = f"{sys.version_info[0]}.{sys.version_info[1]}: {sys.executable}"
    sys.stderr.write(
        f"ERROR: This project needs Python 3.10 or newer, and this is {found}. Make its environment with a "
        "newer one: uv venv --seed --python 3.12, or python3.12 -m venv .venv\n"
    )
    raise SystemExit(3)  # isc_runtime.errors.ExitCode.UNFIT
