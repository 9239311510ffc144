"""What the README shows is run, and what it lists is there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from hfjax_demo.cli import main
from hfjax_demo.settings import ENV_PREFIX, Settings
from tests.architectures import ARCHITECTURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.xdist_group("smollm2")


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def command_lines():
    prefix = ".venv/bin/python -m hfjax_demo "
    return [
        line.removeprefix(prefix) for block in code_blocks("sh") for line in block.splitlines() if line.startswith(prefix)
    ]


def test_there_are_commands_to_run():
    assert len(command_lines()) >= 5


@pytest.mark.parametrize("line", command_lines())
def test_every_command_of_the_readme_runs(line, capsys):
    assert main(shlex.split(line)) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("code", code_blocks("python"))
def test_every_python_snippet_of_the_readme_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("(1, 3, 256, 64)") == 8


def test_every_file_of_the_tree_exists_and_none_is_missing():
    (tree,) = [block for block in code_blocks("text") if "errors.py" in block]
    listed = set(re.findall(r"\b(\w+)\.py\b", tree))
    present = {path.stem for path in (ROOT / "hfjax_demo").rglob("*.py")} - {"__init__", "__main__"}
    assert listed == present | {"app"}


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_setting_is_listed_and_no_other():
    listed = set(re.findall(rf"`{ENV_PREFIX}(\w+)`", README)) - {"LOG_LEVEL"}
    assert listed == {name.upper() for name in Settings.__dataclass_fields__}


def test_every_tested_architecture_is_listed():
    for name in ARCHITECTURES.keys() - {"mamba"}:
        assert re.search(rf"\b{name.removesuffix('_text')}\b", README), name


def test_the_readme_is_short_and_the_version_is_one():
    assert len(README.splitlines()) < 250
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
