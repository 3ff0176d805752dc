"""The report of a run and of a lab: what stands in it, and what never does."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest

from fedsc.cli.run import parse_settings
from fedsc.data.additions import Annotation
from fedsc.errors import DataError
from fedsc.report.lab import lab_report
from fedsc.report.parts import as_option
from fedsc.report.run import report_of, write_report
from fedsc.results import load
from fedsc.sent import Answer, Part

NASTY = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Reads a page as a checker would: tags with their attributes, texts, order of headings."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(text):
    """Hold a page against what every report has to be."""
    assert len(text.encode()) < 2 * 2**20
    page = Page(text)
    for name, attributes in page.tags:
        assert name not in ("script", "link", "iframe", "object"), name
        for value in attributes.values():
            own = (value or "").startswith("data:image/png;base64,")
            assert own or not re.search(r"https?:|//\w", value or ""), (name, attributes)
    assert "@import" not in text
    assert "url(" not in text
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] and image["src"].startswith("data:") for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {cell["scope"] for cell in page.all("th")} <= {"col", "row"}
    assert [name for name, _ in page.tags if name in ("h1", "h2")].count("h1") == 1
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert all(link["href"].removeprefix("#") in ids for link in page.all("a"))
    return page


@pytest.fixture(scope="module")
def finished(tiny_run, change, lead, tiny_set, tmp_path_factory):
    """A run whose labs, types and genes have names of a stranger, one of which fails once."""
    folder = tmp_path_factory.mktemp("nasty")
    cells = anndata.read_h5ad(tiny_set)
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories({"type0": NASTY})
    names = list(cells.var_names)
    names[0] = NASTY
    cells.var_names = names
    cells.write_h5ad(folder / "cells.h5ad")
    config = change(
        tiny_run, dataset=str(folder / "cells.h5ad"), output=str(folder / "runs"), files=True
    )
    return lead(config)


def test_every_run_leaves_a_report_that_says_how_it_went(finished):
    text = (finished.folder / "report.html").read_text()
    assert (finished.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = check_page(text)
    record = finished.scores
    assert f"fedsc put 96 cells of 4 labs into {record['graph']['clusters']} clusters" in page.text
    verdict = "has helped" if record["graph"]["ari"] > record["floor"]["graph"]["ari"] else "not"
    assert verdict in page.text
    for heading in (
        "Clusters",
        "Labs and clusters",
        "Scores",
        "Training",
        "Warnings",
        "Genes",
        "Time and traffic",
        "To repeat it",
    ):
        assert heading in page.text
    assert "near 1 they keep their own" in page.text
    for phase in ("statistics", "training", "floor", "clusters, markers and types", "files"):
        assert phase in page.text
    assert "MiB to labs" in page.text
    assert "for the floor" in page.text
    assert "lab-3" in page.text
    assert "100%" in page.text  # coverage
    assert "--set method=fedsc" in page.text
    assert "method fedsc" not in page.text.split("Options that differ")[1].split("fedsc run")[0]
    last = pd.DataFrame(finished.rows).query("round == 3")
    loss = (last["loss"] * last["cells"]).sum() / last["cells"].sum()
    assert f"mean loss over cells was {loss:.3f}" in page.text
    assert "--set rounds=3" in page.text


def test_names_of_strangers_are_text(finished):
    text = report_of(load(finished.folder))
    assert NASTY not in text
    assert "&lt;script&gt;" in text


def test_a_run_that_has_not_ended_has_a_report_too(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    for name in ("scores.json", "clusters.safetensors", "markers.csv", "report.html"):
        (folder / name).unlink()
    for file in (folder / "labs").glob("*.h5ad"):
        file.unlink()
    rows = finished.rows
    rows.append({"round": 4, "lab": NASTY, "failed": f"refused: {NASTY}"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = check_page(write_report(folder).read_text())
    assert "has not come to its end" in page.text
    assert "because of an error" not in page.text
    why = {"time": "2099-01-02T12:00:00+00:00", "level": "ERROR", "reason": f"no genes of {NASTY}"}
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(why) + "\n")
    failed = check_page(write_report(folder).read_text())
    assert f"It stopped because of an error: no genes of {NASTY}" in failed.text
    assert f"fedsc run --resume {folder}" in page.text
    assert f"refused: {NASTY}" in page.text
    assert "Scores" not in page.text


def test_the_time_of_a_resumed_run_is_said_to_be_that_of_all_its_parts(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    said = "times and traffic are those of all its parts together"
    assert said not in check_page(write_report(tmp_path / "run").read_text()).text
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() * 2)
    assert said in check_page(write_report(tmp_path / "run").read_text()).text


def test_clusters_at_every_resolution_that_was_asked_for_are_listed(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    assert "by resolution" not in check_page(write_report(tmp_path / "run").read_text()).text
    record = finished.scores
    first, other = record["graph"], {"resolution": 1.5, "clusters": 17, "ari": 0.123, "nmi": None}
    first |= {"resolutions": [other], "ari": 0.456, "nmi": 0.567}
    (tmp_path / "run" / "scores.json").write_text(json.dumps(record))
    page = check_page(write_report(tmp_path / "run").read_text())
    table = page.text.split("Graph clusters by resolution; the cells have those of 0.4")[1]
    line = f"resolution clusters ARI NMI 0.4 {first['clusters']} 0.46 0.57 1.5 17 0.12 –"
    assert table.strip().startswith(line)


def test_a_floor_that_was_integrated_alone_has_no_line_of_its_own(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "scores.json").read_text())
    record["floor"]["pooled_integrated"] = record["floor"]["pooled"]
    (tmp_path / "run" / "scores.json").write_text(json.dumps(record))
    page = check_page(write_report(tmp_path / "run").read_text())
    assert "k-means, pooled (the papers)" in page.text
    assert "integrated" not in page.text.split("Scores")[1].split("Training")[0]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.inf, "inf"),
        (0.05, "0.05"),
        (1e-05, "1e-05"),
        (7, "7"),
        (True, "true"),
        ("", ""),
        ("drop", "drop"),
        ("0.4,0.8", "0.4,0.8"),
        ("0.4", "0.4"),
        ("true", '"true"'),
        ("1e3", '"1e3"'),
    ],
)
def test_options_are_written_as_the_command_line_takes_them(value, written):
    assert as_option(value) == written
    (read,) = parse_settings([f"option={written}"]).values()
    assert str(read) == str(value)


def test_a_cluster_of_unknown_type_has_no_share_of_another_type(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    found = load(finished.folder).clusters
    types = ("unknown", *found.types[1:])
    shares = np.array([0.4321, *found.shares[1:]])
    packed = dataclasses.replace(found, types=types, shares=shares).pack()
    (tmp_path / "run" / "clusters.safetensors").write_bytes(packed)
    page = check_page(write_report(tmp_path / "run").read_text())
    assert "43%" not in page.text
    assert "fewer than 10 of the cluster's cells are annotated" in page.text
    assert "a share of 50% (type-threshold)" in page.text


def test_labs_that_are_real_keep_their_cells_to_themselves(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "labs")
    page = check_page(write_report(folder, tmp_path / "moved.html").read_text())
    assert "The labs' files are not in the run folder" in page.text
    (folder / "cells.json").write_text('{"labs": {}}')
    page = check_page(write_report(folder, tmp_path / "other.html").read_text())
    assert "Each lab has them in its own file and its own report" in page.text
    assert (folder / "report.html").read_text() != (tmp_path / "other.html").read_text()


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"config\.json is missing"):
        write_report(tmp_path)


def sent_answer(asked, n_bytes, names):
    parts = tuple(Part(name, "int64", (3,)) for name in names)
    return Answer("2026-01-02T12:00:00+00:00", asked, (asked,), None, n_bytes, parts)


def test_a_lab_s_report_tells_of_its_own_cells():
    clusters = np.array([0, 0, 1, 1, 1])
    about = {
        "lab": NASTY,
        "run": "r",
        "warnings": f"few {NASTY}",
        "coverage": {"measured": 70, "genes": 100, "weight": 0.5, "share": 0.7},
        "versions": {"fedsc": "0"},
        "options": {"type-threshold": 0.65},
    }
    annotation = Annotation(
        np.zeros((5, 2)),
        clusters,
        3,
        about,
        types=("T", NASTY, "unknown"),
        shares=np.array([0.9, 0.72, 0.58]),
        places=np.random.default_rng(0).normal(size=(5, 2)),
        markers={
            "names": {str(i): np.array(["GENE1", "GENE2"][i:]) for i in range(3)},
            "scores": {str(i): np.array([3.0, 0.0][i:]) for i in range(3)},
        },
    )
    sent = [sent_answer(f"sums {NASTY}", 5, ("sums/n",)), sent_answer("weights", 4, ("a",) * 9)]
    text = lab_report(annotation, np.array([50, 30, 20]), [*sent, sent[0]])
    page = check_page(text)
    assert NASTY not in text
    assert "brought 5 of the 100 cells" in page.text
    assert "2 have cells of this lab" in page.text
    assert "70 of the 100 genes" in page.text
    assert f"few {NASTY}" in page.text
    assert "(72%)" in page.text
    assert "58%" not in page.text  # the share is of a type that is not named
    assert "a share of 65% (type-threshold)" in page.text
    assert page.text.count("GENE1") == 1
    assert "GENE2" not in page.text  # no higher in its cluster than outside
    # By question: how often, how many bytes, and what they were.
    assert f"sums {NASTY} 2 10 sums/n (int64 3)" in " ".join(page.text.split())
    assert "weights 1 4 9 parts, 27 values in all" in " ".join(page.text.split())
    assert "all 3 14" in " ".join(page.text.split())


@pytest.mark.slow
def test_a_browser_shows_it_without_an_error_or_a_request(finished, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    page = (finished.folder / "report.html").as_uri()
    for width in (360, 800, 1400):
        shot, net = tmp_path / f"{width}.png", tmp_path / f"{width}.json"
        done = subprocess.run(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--enable-logging=stderr",
                f"--log-net-log={net}",
                f"--window-size={width},1200",
                f"--screenshot={shot}",
                page,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert shot.exists(), done.stderr
        assert "CONSOLE" not in done.stderr
