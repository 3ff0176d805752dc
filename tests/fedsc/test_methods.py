import pytest

from fedsc.errors import ConfigError
from fedsc.methods import METHODS, load_objective, method_of
from fedsc.options import MethodOptions
from fedsc.ssl.objective import Objective


@pytest.mark.parametrize("name", METHODS)
def test_every_name_leads_to_its_objective(name):
    method = method_of(MethodOptions(name=name))
    assert method.pull == ("fedsc" if name == "fedsc" else "none")
    if name != "fedpca":
        assert isinstance(load_objective(method), Objective)


def test_a_named_pull_goes_before_the_methods_own():
    assert method_of(MethodOptions(name="fedsc", pull="none")).pull == "none"
    assert method_of(MethodOptions(name="fedsimclr", pull="fedema")).pull == "fedema"


def test_unknown_names_are_refused_with_what_is_allowed():
    with pytest.raises(ConfigError, match=r"method = 'fedscc'.*fedsc, fedbyol.*module:ATTRIBUTE"):
        method_of(MethodOptions(name="fedscc"))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:X", r"No module named.*export PYTHONPATH=\$PWD"),
        ("fedsc.ssl.byol:NOPE", "no attribute"),
        (":BYOL", "method = ':BYOL': Empty module name"),
        ("fedsc.ssl.byol:init", "not function"),
    ],
)
def test_a_path_that_is_no_objective_is_refused(path, words):
    with pytest.raises(ConfigError, match=words):
        load_objective(method_of(MethodOptions(name=path)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ndef step(:\n", r"SyntaxError: invalid syntax \(.*broken_a.py, line 2\)"),
        ("x = 1\n\nx.y\n", r"AttributeError: 'int' object has no .* \(.*broken_b.py, line 3\)"),
        ("x = 1\n\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*broken_c.py, line 3\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_by_file_and_line(
    tmp_path, monkeypatch, request, text, words
):
    name = f"broken_{'abc'[request.node.callspec.indices['text']]}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"option method = '{name}:OBJECTIVE': {words}"):
        load_objective(method_of(MethodOptions(name=f"{name}:OBJECTIVE")))
