"""Command lines and requirements are found in the files that have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migration.trees import findings, found, write

pytestmark = [pytest.mark.unit]

WORDS = "celery -A proj worker -c 4 --pool=gevent -Q a,b -S state --uid 3"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Procfile", f"worker: {WORDS}\n"),
        ("Procfile.dev", f"worker: exec {WORDS} # and more\n"),
        ("run.sh", f"#!/bin/sh\nexec {WORDS} && echo done\n"),
        ("run.sh", "celery -A proj worker -c 4 \\\n  --pool=gevent -Q a,b \\\n  -S state --uid 3\n"),
        ("Makefile", f"run:\n\t{WORDS}\n"),
        ("celery.service", f"[Service]\nExecStart=/opt/venv/bin/{WORDS}\n"),
        ("celery.service", f"[Service]\nExecStart=/bin/sh -c '${{CELERY_BIN}} {WORDS[7:]}'\n"),
        ("run.sh", f"$CELERY {WORDS[7:]}\n"),
        ("supervisor.conf", f"command=poetry run {WORDS}\n"),
        ("docker-compose.yml", f"    command: {WORDS}\n"),
        ("docker-compose.yml", f"    command: bash -c 'sleep 1; {WORDS}'\n"),
        (
            "docker-compose.yml",
            "    command: >\n      celery -A proj worker\n      -c 4\n      --pool=gevent -Q a,b\n"
            "      -S state --uid 3\n    image: x\n",
        ),
        (
            "docker-compose.yml",
            "    command: >\n      celery --app=proj\n      worker -c 4 --pool=gevent\n      -Q a,b\n"
            "      -S state --uid 3\n    image: x\n",
        ),
        (
            "docker-compose.yml",
            "    command: celery -A proj\n      worker -c 4 --pool=gevent -Q a,b\n      -S state --uid 3\n"
            "    image: x\n",
        ),
        (
            "docker-compose.yml",
            '    command: [\n      "celery",\n      "-A", "proj", "worker", "-c", "4", "--pool=gevent",\n'
            '      "-Q", "a,b", "-S", "state",\n      "--uid", "3"]\n    image: x\n',
        ),
        (
            "k8s/worker.yaml",
            'command: ["celery"]\nargs: ["-A", "proj", "worker", "-c", "4", "--pool=gevent", "-Q", "a,b",\n'
            '       "-S", "state", "--uid", "3"]\nports:\n  - 80\n',
        ),
        (
            "k8s/worker.yaml",
            "command:\n  - celery\nargs:\n  - -A\n  - proj\n  - worker\n  - -c\n  - '4'\n  - --pool=gevent\n"
            "  - -Q\n  - a,b\n  - -S\n  - state\n  - --uid\n  - '3'\nports:\n  - 80\n",
        ),
        (
            "k8s/worker.yaml",
            "command:\n  - celery\n  - -A\n  - proj\n  - worker\n  - -c\n  - '4'\n  - --pool=gevent\n"
            '  - "-Q"\n  - a,b\n  - -S\n  - state\n  - --uid\n  - "3"\nports:\n  - 80\n',
        ),
        (
            "Dockerfile",
            'CMD ["celery", "-A", "proj", "worker", "-c", "4", "--pool=gevent", "-Q", "a,b", "-S", "state", '
            '"--uid", "3"]\n',
        ),
        ("Dockerfile", f"CMD python -m {WORDS}\n"),
    ],
)
def test_command_lines(name: str, text: str, tmp_path: Path) -> None:
    """The command, each of its options and the pool's name are judged, in every kind of file."""
    write(tmp_path, {name: text})
    told = {name.replace("--app", "-A"): status for name, status in found(tmp_path, "command").items()}
    assert {
        "celery -A": "supported",
        "celery worker": "supported",
        "celery worker -c": "supported",
        "celery worker --pool gevent": "unsupported",
        "celery worker -Q": "supported",
        "celery worker -S": "different",
        "celery worker --uid": "unsupported",
    } == told
    assert 1 == len({one.line for one in findings(tmp_path)})


@pytest.mark.parametrize(
    "text",
    ["echo celery is down\n", "# celery -A proj worker\n", "image: celery:5\n", "cd celery\n", "celery\n"],
)
def test_what_is_no_command_line(text: str, tmp_path: Path) -> None:
    """A sentence, a comment or a name is no command line."""
    write(tmp_path, {"run.sh": text})
    assert {} == found(tmp_path)


def test_the_commands_of_one_script_are_told_apart(tmp_path: Path) -> None:
    """Lines of a script, or keys below, don't go on with the command above them."""
    write(
        tmp_path,
        {
            "ci.yml": "- run: celery -A proj worker\n  name: --pool=gevent\n"
            "- run: |\n    celery -A proj beat\n    other --pool=gevent\n    celery -A proj purge\n"
        },
    )
    assert {
        "celery -A", "celery worker", "celery beat", "celery purge",
    } == set(found(tmp_path, "command"))  # fmt: skip


def test_commands_that_there_are_not(tmp_path: Path) -> None:
    """A command that isn't there is unsupported, and one that goes on after its name is not read on."""
    write(tmp_path, {"run.sh": "celery -A proj flower --port 5555\ncelery multi start w1 -A proj --uid 3\n"})
    names = found(tmp_path)
    assert "unsupported" == names["celery flower"]
    assert {"celery -A", "celery flower", "celery flower --port", "celery multi"} >= set(names)


def test_settings_after_two_dashes(tmp_path: Path) -> None:
    """Settings at the end of a command line are what the list says of them."""
    write(tmp_path, {"run.sh": "celery -A proj worker -- worker.prefetch_multiplier=1\n"})
    assert "settings after --" in found(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "celery[redis]==5.3.4 ; python_version > '3'\ndjango-celery-beat>=2\n"),
        ("requirements/base.in", "Celery[redis]\ndjango_celery_beat\n"),
        ("pyproject.toml", 'dependencies = ["celery[redis]>=5", "django-celery-beat"]\n'),
        ("pyproject.toml", 'celery = {extras = ["redis"]}\n"django-celery-beat" = "*"\n'),
        ("setup.py", 'setup(install_requires=["celery[redis]", "django-celery-beat"])\n'),
        ("environment.yml", "dependencies:\n  - celery\n  - django-celery-beat=2\n"),
    ],
)
def test_requirements(name: str, text: str, tmp_path: Path) -> None:
    """Celery and what builds on it are found among a project's requirements."""
    write(tmp_path, {name: text, "proj/celery.py": "x = 1\n", "proj/__init__.py": ""})
    packages = found(tmp_path, "package")
    assert {"celery", "django-celery-beat"} == set(packages)
    assert "different" == packages["celery"]


def test_the_extra_that_is_needed_is_named(tmp_path: Path) -> None:
    """For `celery[redis]` the extra of ours is named."""
    write(tmp_path, {"requirements.txt": "celery[redis,msgpack]\n"})
    assert "emq-compat[redis] takes its place" in findings(tmp_path)[0].reason
