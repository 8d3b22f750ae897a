"""The README's Python runs as it stands, top to bottom."""

import importlib.util
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_readme_python_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 7
    scope: dict = {}
    for block in blocks:
        exec(block, scope)
    printed = capsys.readouterr().out
    assert "completed" in printed or "stopped_early" in printed
    assert printed.strip().endswith("True")


def test_readme_files_exist():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)|`((?:tests|benchmarks)/[\w/]+\.py)`", text):
        assert (README.parent / "".join(target)).exists(), target


def test_readme_commands_exist(monkeypatch):
    monkeypatch.syspath_prepend(README.parent)
    modules = re.findall(r"`python -m ((?:benchmarks|experiments)[\w.]*)", README.read_text(encoding="utf-8"))
    assert len(modules) >= 10
    for module in modules:
        assert importlib.util.find_spec(module), module
