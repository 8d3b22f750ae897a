"""The rules of the house, read from the code: layers, imports, signatures, docstrings."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmf

ROOT = Path(__file__).parent.parent
MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(jaxmf.__path__, "jaxmf.")
    if not info.name.endswith("__main__")
]
FUNCTIONS = {
    f"{function.__module__}.{function.__qualname__}": function
    for module in [jaxmf, *MODULES]
    for name, function in vars(module).items()
    if inspect.isroutine(function) and function.__module__.startswith("jaxmf")
}


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_data_flows_one_way():
    """The layers of pyproject.toml: no module imports from a later room."""
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")
    assert cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_every_module_has_its_layer():
    """A new room must say where it stands."""
    import tomllib

    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip(" ()").split(".")[1] for layer in layers for name in layer.replace(":", "|").split("|")}
    rooms = {info.name for info in pkgutil.iter_modules(jaxmf.__path__)}
    assert rooms == named


def test_a_module_with_the_name_of_its_function_is_private():
    """So that `jaxmf.solvers.als` is one thing: the function hides the module where a room hands it on."""
    named = {module.__name__.rpartition(".")[2]: module for module in MODULES}
    assert [name for name, module in named.items() if callable(getattr(module, name, None))] == []


def test_import_is_light_and_changes_no_setting():
    done = run_python(
        "import jax, sys\n"
        "before = dict(jax.config.values)\n"
        "from jaxmf import *\n"
        "assert callable(fit)\n"
        "assert dict(jax.config.values) == before\n"
        "heavy = {'matplotlib', 'typer', 'pooch', 'sklearn', 'tqdm', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "jax.config.update('jax_num_cpu_devices', 2)  # refused once a backend has started\n"
        "assert len(jax.devices('cpu')) == 2\n"
    )
    assert done.returncode == 0, done.stderr


def test_public_page():
    for name in jaxmf.__all__:
        assert getattr(jaxmf, name) is not None
    assert sorted(jaxmf.__all__) == jaxmf.__all__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_key_comes_first_and_has_no_default(name):
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters.values())
    for place, parameter in enumerate(parameters):
        if parameter.name == "key":
            assert place == 0
            assert parameter.default is inspect.Parameter.empty


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_things_have_docstrings(module):
    assert module.__doc__
    for name, thing in vars(module).items():
        own = getattr(thing, "__module__", None) == module.__name__
        if own and not name.startswith("_") and (inspect.isclass(thing) or inspect.isroutine(thing)):
            assert thing.__doc__, f"{module.__name__}.{name}"
            assert not thing.__doc__.startswith(f"{name}("), f"{module.__name__}.{name}: only a generated docstring"


def test_every_mutant_still_has_its_line():
    from mutate import MUTANTS

    found = {name: (ROOT / "jaxmf" / each.file).read_text().count(each.right) for name, each in MUTANTS.items()}
    assert set(found.values()) == {1}, {name: times for name, times in found.items() if times != 1}


def test_modules_functions_and_lists_of_parameters_are_short():
    """At most 300 lines of a module, 60 of a function without its docstring, 8 parameters of what is internal."""
    import ast

    from jaxmf.shell.common import app

    public = {name for module in [jaxmf, *MODULES] for name in getattr(module, "__all__", [])}
    public |= {name for name, kind in vars(jaxmf.Dataset).items() if isinstance(kind, classmethod)}
    public |= {command.callback.__name__ for command in app.registered_commands}
    too_long = []
    for path in sorted((ROOT / "jaxmf").rglob("*.py")):
        text = path.read_text()
        if (length := len(text.splitlines())) > 300:
            too_long.append(f"{path.name}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    length -= node.body[0].end_lineno - node.body[0].lineno + 1
                if length > 60:
                    too_long.append(f"{path.name}, {node.name}: {length} lines")
                parameters = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
                if parameters > 8 and node.name not in public:
                    too_long.append(f"{path.name}, {node.name}: {parameters} parameters")
    assert too_long == []
