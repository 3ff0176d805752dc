"""``fedsc fit``: one centralised method on one file."""

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedsc.baselines import METHODS
from fedsc.cli.progress import Bars
from fedsc.cli.reading import FoldCase, LabelKey, Layer, MakeUnique, Symbols
from fedsc.cli.run import parse_settings
from fedsc.data.reading.how import ReadAs
from fedsc.errors import ConfigError, DataError, RunError
from fedsc.files import filling, identity, replace, replacing

if TYPE_CHECKING:
    from fedsc.baselines.method import Fitted, Progress
    from fedsc.data.expression import Expression

_INTERRUPTED = 130
_RECORD = "fit.json"


def fit(
    method: Annotated[str, typer.Argument(help=f"One of {', '.join(METHODS)}.")],
    file: Annotated[Path, typer.Argument(help="File, or a 10x matrix folder.")],
    output: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")],
    layer: Layer = "",
    label_key: LabelKey = "",
    symbols: Symbols = "",
    make_unique: MakeUnique = False,
    fold_case: FoldCase = False,
    k: Annotated[
        str,
        typer.Option(
            "--k",
            metavar="K|auto|true",
            help="Clusters: a number; auto = Leiden decides; true = as many as cell types.",
        ),
    ] = "auto",
    resolution: Annotated[float, typer.Option(min=0.0, help="Leiden's, for k = auto.")] = 0.5,
    preset: Annotated[str, typer.Option(help="Named values; '' = the method's first.")] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Cluster one file with one centralised method.

    The output folder gets a copy of the file with the embedding in `obsm["X_fedsc_<method>"]`,
    the clusters in `obs["fedsc_<method>"]` and the record in `uns["fedsc_<method>"]`; `fit.json`,
    the record; `scores.json` if cell types are known; `extras.npz` if a method has more results
    (mask-sc also draws `attention.png`); `checkpoint/` if it trains. Ctrl-C stops a fit; the same
    command continues it. A folder that already holds this fit is left as it is.

    **Examples**

    `fedsc fit leiden cells.h5ad --output out/leiden`

    `fedsc fit contrastive-sc cells.h5ad --preset steady --label-key cell_type --k true
    --output out/steady`

    `fedsc fit pca cells.h5ad --preset published --k 8 --output out/pca`

    `fedsc fit nmf cells.h5ad --k 8 --set source=atlas.h5ad --output out/nmf`

    `fedsc fit scdeepcluster cells.h5ad --layer counts --set pretraining-epochs=100
    --output out/scdeepcluster`
    """
    from fedsc.baselines import fitting
    from fedsc.baselines.method import Settings
    from fedsc.baselines.outcome import plain
    from fedsc.data.reading.read import read

    if not file.exists():
        raise DataError(f"{file}: there is no such file or folder")
    fitting.require_method(method)
    fitting.require_device(device)
    copy = output / f"{Path(file.name.removesuffix('.gz')).stem}.h5ad"
    if copy.resolve() == file.resolve():
        raise ConfigError(f"--output {output} holds {file.name} itself; choose another folder")
    console = Console(stderr=True)
    overrides = parse_settings(set_ or [])
    how = ReadAs(layer, label_key, symbols, make_unique, fold_case)
    request = {
        "method": method,
        "file": str(file.resolve()),
        "content": _content(file, Path(str(overrides.get("source") or file))),
        **asdict(how),
        "k": k,
        "resolution": resolution,
        "preset": preset,
        "overrides": plain(overrides),
        "seed": seed,
        "device": device,
    }
    if (output / _RECORD).exists():
        _already_there(output, request, console)
        return
    expression = read(file, how)
    try:
        with filling(output), Bars(console) as bars:
            settings = Settings(
                resolution=resolution,
                seed=seed,
                preset=preset,
                overrides=overrides,
                device=device,
                checkpoint=output / "checkpoint",
                progress=_shower(bars),
            )
            fitted = fitting.fit(method, expression, settings, k)
    except KeyboardInterrupt:
        kept = sorted((output / "checkpoint").glob("*.safetensors"))
        names = ", ".join(path.name for path in kept)
        console.print(
            f"stopped; {names} in {output / 'checkpoint'}: the same command goes on from there"
            if kept
            else "stopped; nothing was kept",
            soft_wrap=True,
        )
        sys.exit(_INTERRUPTED)
    about = {"request": request} | fitted.record
    _write(copy, file, expression, fitted, about)
    _report(about, Console())
    console.print(f"written: {copy}", highlight=False, soft_wrap=True)


def _content(*paths: Path) -> str:
    """Give a short name to what stands in files, or in the files of 10x folders."""
    files = [
        file
        for path in dict.fromkeys(paths)
        for file in (sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path])
        if file.exists()
    ]
    return hashlib.sha256(json.dumps([identity(one) for one in files]).encode()).hexdigest()[:12]


def _shower(bars: Bars) -> "Progress":
    """Show a fit's progress: a bar for every phase."""

    def show(phase: str, done: int, total: int, figures: dict[str, float]) -> None:
        bars.show(phase, done, total, "  ".join(f"{n} {v:.4g}" for n, v in figures.items()))

    return show


def _already_there(output: Path, request: dict[str, Any], console: Console) -> None:
    """Say that there is nothing to do, or refuse to mix two fits."""
    try:
        about = json.loads((output / _RECORD).read_text(encoding="utf-8"))
        before = dict(about["request"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{output / _RECORD} is damaged ({error}): delete {output}, or choose another --output"
        ) from error
    differ = [key for key in request if before.get(key) != request[key]]
    if differ == ["content"]:
        raise RunError(
            f"{output} holds a fit of {request['file']} from before it, or its source, changed; "
            "choose another --output"
        )
    if differ:
        was = ", ".join(f"{key} = {before.get(key)!r}" for key in differ)
        now = ", ".join(f"{key} = {request[key]!r}" for key in differ)
        raise RunError(
            f"{output} holds another fit ({was}; asked for now: {now}); choose another --output"
        )
    console.print(f"{output} already holds this fit; delete it to fit again", soft_wrap=True)
    _report(about, Console())


def _write(
    copy: Path,
    file: Path,
    expression: "Expression",
    fitted: "Fitted",
    about: dict[str, Any],
) -> None:
    """Write everything; the record comes last, so that its presence means a whole fit."""
    import numpy as np

    from fedsc.baselines.outcome import additions_of
    from fedsc.data.annotated import Origin, write_annotated

    write_annotated(Origin(file), copy, expression, additions_of(fitted, about))
    if fitted.extras:
        extras = copy.with_name("extras.npz")
        with replacing(extras) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **fitted.extras)
    if "attention_mean" in fitted.extras:
        _draw_attention(copy.with_name("attention.png"), expression, fitted)
    if expression.label_key:
        _write_json(copy.with_name("scores.json"), about["scores"])
    _write_json(copy.with_name(_RECORD), about)


def _draw_attention(path: Path, expression: "Expression", fitted: "Fitted") -> None:
    """Draw where mask-sc looks (its Fig. 5), by cell type where known, else by cluster."""
    from fedsc.plots.attention import attention_map
    from fedsc.plots.style import save

    known = expression.labels
    figure = attention_map(
        fitted.extras["attention_mean"],
        fitted.extras["patch_places"],
        int(fitted.record["preset"]["side"]),
        fitted.clusters.astype(str) if known is None else known,
    )
    save(figure, path, dpi=120)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    from fedsc.baselines.outcome import plain

    replace(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def _report(record: dict[str, Any], console: Console) -> None:
    found = record["scores"]
    table = Table("clusters", "ARI", "NMI", "silhouette", "Calinski–Harabasz", "seconds")
    names = ("ari", "nmi", "silhouette", "calinski_harabasz")
    figures = ["–" if found[name] is None else f"{found[name]:.4g}" for name in names]
    table.add_row(str(found["k"]), *figures, f"{record['seconds']:.0f}")
    console.print(table)
    console.print(f"number of clusters: {record['k is']}", highlight=False)
