"""Fuzz a target with atheris, led by the code that its inputs reach.

    pip install atheris
    python -m tests.fuzzing broker -max_total_time=600

What is found new goes to the folder ``.fuzz/TARGET``; an input that raises is written beside it, and its
trace shown. ``python -m tests.fuzzing broker -merge=1 tests/fuzzing/corpus/broker .fuzz/broker`` keeps what
reaches new code. Options are libFuzzer's.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["emq_compat"]):
    from tests.fuzzing.targets import CORPUS, TARGETS

#: What inputs are made of: commands, verbs, names of headers.
WORDS = Path(__file__).parent / "words.dict"


def main() -> None:
    """Fuzz the target that the command line names."""
    warnings.simplefilter("ignore")
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    if not any(option.startswith("-merge") for option in options):
        found = Path(".fuzz") / name
        found.mkdir(parents=True, exist_ok=True)
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        options += [
            f"-artifact_prefix=.fuzz/{name}-",
            "-max_len=4096",
            f"-dict={WORDS}",
            str(found),
            str(CORPUS / name),
        ]
    # libFuzzer merges in processes of its own, which it starts by this name, through a shell.
    atheris.Setup([f"{sys.executable} -m tests.fuzzing {name}", *options], target)
    atheris.Fuzz()


main()
