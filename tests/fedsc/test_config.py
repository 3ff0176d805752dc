import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsc.config import Config
from fedsc.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_defaults_are_those_of_the_paper():
    config = Config.of()
    method, training = config.method, config.training
    assert method.name == "fedsc"
    assert (method.alpha, method.target_momentum, method.mask_rate) == (0.7, 0.99, 0.9)
    assert (training.local_epochs, training.batch_size, training.rounds) == (5, 128, 300)
    assert (training.learning_rate, training.momentum, training.weight_decay) == (0.032, 0.5, 5e-4)
    assert (config.data.n_genes, config.split.labs, config.split.subtypes_per_lab) == (500, 4, 2)


def test_run_config_in_pyproject_is_the_model():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    told = pyproject["tool"]["flwr"]["app"]["config"]
    assert told.keys() == Config.of().to_mapping().keys()
    assert Config.from_mapping(told) == Config.of()


@pytest.mark.parametrize(
    ("options", "genes"),
    [
        ({}, 500),
        ({"n_genes": 0}, 500),
        ({"n_genes": 700}, 700),
        ({"method": "fedpca"}, 2000),
        ({"method": "fedpca", "n_genes": 0}, 2000),
        ({"method": "fedpca", "n_genes": 500}, 500),
        ({"method": "fedbyol"}, 500),
    ],
)
def test_a_method_has_its_own_where_nothing_is_set_and_a_config_has_what_runs(options, genes):
    config = Config.of(**options)
    assert config.data.n_genes == genes
    assert config.to_mapping()["n-genes"] == genes
    again = Config.from_mapping(config.to_mapping())
    assert again == config
    assert again.fingerprint() == config.fingerprint()
    # Flower always passes every option, those not set with their defaults.
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    told = pyproject["tool"]["flwr"]["app"]["config"] | {
        name.replace("_", "-"): value for name, value in options.items()
    }
    assert Config.from_mapping(told) == config


def test_a_changed_config_keeps_every_value():
    assert Config.of().replace(method="fedpca").data.n_genes == 500


def test_every_option_is_described():
    groups = [field.annotation for field in Config.model_fields.values()]
    fields = [field for group in groups for field in group.model_fields.values()]
    assert len(fields) == len(Config.of().to_mapping())
    assert all(field.description for field in fields)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": "300"}, ["rounds", "'300'", "integer"]),
        ({"rounds": 0}, ["rounds", "0", "greater than or equal to 1"]),
        ({"rounds": True}, ["rounds", "True"]),
        ({"mask-rate": -0.1}, ["mask-rate", "-0.1"]),
        ({"mask-rate": 1.0}, ["mask-rate", "1.0", "less than 1"]),
        ({"pull": "strong"}, ["pull", "'strong'", "fedema", "constant"]),
        ({"norm": "instance"}, ["norm", "'instance'", "layer"]),
        ({"learning-rate": float("nan")}, ["learning-rate", "nan"]),
        ({"alpha": 0}, ["alpha", "0", "greater than 0"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"clusters": -1}, ["clusters", "-1"]),
        ({"learning_rat": 0.1}, ["learning-rat", "did you mean 'learning-rate'"]),
        ({"zzz": 0.1}, ["unknown option 'zzz'", "rounds"]),
        ({"partition": "column"}, ["partition-key"]),
        ({"genes": "reference"}, ["reference-genes"]),
    ],
)
def test_bad_options_are_refused_by_name_value_and_what_is_allowed(options, words):
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(options)
    for word in words:
        assert word in str(caught.value)


def test_all_bad_options_are_named_at_once():
    with pytest.raises(ConfigError, match=r"labs.*seed"):
        Config.from_mapping({"labs": 0, "seed": "x"})


def test_integers_are_accepted_where_floats_are_meant():
    assert Config.from_mapping({"target-sum": 10000}).data.target_sum == 10000.0


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none())
)


@given(st.dictionaries(st.sampled_from(list(Config.of().to_mapping())), _VALUES, max_size=4))
def test_any_options_give_a_config_or_a_sentence(options):
    try:
        config = Config.from_mapping(options)
    except ConfigError as error:
        sentence = str(error)
    else:
        sentence = ""
    if sentence:
        assert any(key in sentence for key in options) or "needs" in sentence
        return
    for key, value in options.items():
        kept = config.to_mapping()[key]
        if isinstance(kept, str):  # a limit of quality control may be given as a number
            assert kept == str(value)
        else:
            assert kept == value or (math.isnan(kept) and math.isnan(value))
        assert isinstance(kept, bool) == isinstance(value, bool)


def test_fingerprint_ignores_where_a_run_is_written_and_nothing_that_decides_it():
    base = Config.of()
    assert base.fingerprint() == Config.of(output="elsewhere", run_name="x").fingerprint()
    # Clusters are made of a model, so a finished run can be resumed with another number of them.
    assert base.fingerprint() == Config.of(clusters=8).fingerprint()
    assert base.fingerprint() != Config.of(seed=1).fingerprint()
    # What was done before does not depend on how many rounds come, or on who is waited for.
    later = {"rounds": 301, "wait_for_labs": 3, "min_updates": 2, "dataset": "moved.h5ad"}
    assert base.fingerprint() == Config.of(**later).fingerprint()
    cosine = {"schedule": "cosine"}  # but for a rate that falls over the rounds
    assert Config.of(**cosine).fingerprint() != Config.of(**cosine, rounds=301).fingerprint()


def test_an_option_that_is_gone_names_those_in_its_place():
    with pytest.raises(
        ConfigError, match=r"min-labs is two options now: wait-for-labs.*min-updates"
    ):
        Config.of(min_labs=2)
