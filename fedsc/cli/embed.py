"""``fedsc embed``: embed and cluster a new file with the model of a run."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedsc.errors import DataError
from fedsc.files import replace

if TYPE_CHECKING:
    import numpy as np

    from fedsc.data.expression import Expression


def embed(
    file: Annotated[Path, typer.Argument(help="File of cells; it is not changed.")],
    model: Annotated[Path, typer.Option(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the copy goes (.h5ad).")],
    layer: Annotated[str, typer.Option(help="'' = X, 'raw' = .raw, else a layer's name.")] = "",
    resolution: Annotated[
        float | None,
        typer.Option(min=0.01, help="Make Leiden clusters of this resolution, not the run's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of Leiden and of --plot.")] = 0,
    private: Annotated[
        Path | None,
        typer.Option(help="One lab's private state, for a model trained with local-norm."),
    ] = None,
    integration: Annotated[
        Path | None,
        typer.Option(
            help="One lab's integration.safetensors, of a run that integrated labs: the file is "
            "of that lab. Without it the file is of a new lab."
        ),
    ] = None,
    batch_key: Annotated[
        str,
        typer.Option(help="Column of obs with batches, for --integration of a lab that had some."),
    ] = "",
    allow_low_coverage: Annotated[
        bool, typer.Option(help="Embed even if the file has under 20 % of the model's genes.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a t-SNE map of the cells here (.png, .svg).")
    ] = None,
    colour: Annotated[
        list[str] | None, typer.Option(help="Columns of obs to colour the map by.")
    ] = None,
) -> None:
    """Embed a file with a trained encoder and cluster it. Nothing leaves this machine.

    The copy has obsm["X_fedsc"], obsm["X_fedsc_umap"], obs["fedsc_cluster"], uns["fedsc"] and, if
    some lab of the run was annotated, obs["fedsc_type"]. Clusters, types and map are those of the
    run, as in every lab's copy. With --resolution, the clusters are Leiden's on the embedding. The
    cell types in the file are not used.

    It says how many of the model's genes the file has, warns below 80 % and refuses below 20 %.

    **Examples**

    `fedsc embed new.h5ad --model runs/my-run --output new-embedded.h5ad`

    `fedsc embed new.h5ad --model runs/my-run -o out.h5ad --plot map.png --colour cell_type`
    """
    import numpy as np

    from fedsc.clusters import load_clusters
    from fedsc.data.annotated import Annotation, add_results, write_annotated
    from fedsc.data.coverage import coverage_warning
    from fedsc.data.genes import case_note
    from fedsc.data.reading.read import read
    from fedsc.leiden import leiden
    from fedsc.model import load_model, load_private_norm

    console = Console(stderr=True)
    if output.exists() and file.exists() and output.samefile(file):
        raise DataError(f"{output} is the input file; name another output")
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise DataError(f"--plot {plot}: should end in .png, .svg or .pdf")
    trained = load_model(model)
    norm = None if private is None else load_private_norm(private, trained)
    expression = read(file, layer=layer)
    missing = [name for name in colour or [] if name not in expression.obs]
    if missing:
        known = ", ".join(expression.obs.columns) or "none"
        raise DataError(f"obs has no column '{missing[0]}' to colour by; it has: {known}")
    prepared = trained.prepare(expression)
    covered = trained.coverage(prepared)
    hint = None
    if covered.measured < covered.genes:
        model_genes = trained.preprocessing.genes
        hint = case_note({"the file": expression.genes, "the model": model_genes})
    warning = coverage_warning(covered, hint, allow_low=allow_low_coverage)
    embedding = trained.embed(prepared, norm)
    embedding, integrated = _integrated(embedding, expression, model, integration, batch_key)
    found = load_clusters(model, embedding.shape[1]) if resolution is None else None
    about: dict[str, Any] = {
        "model": str(model),
        "method": trained.method,
        "scale": trained.scale,
        "genes": covered.genes,
        "genes-measured": covered.measured,
        "weight-measured": covered.weight,
        "warning": warning,
    }
    if integrated:
        about["integrated"] = integrated
    if found is not None:
        about["clusters"] = f"the run's {found.k} clusters"
        annotation = Annotation(
            embedding,
            found.assign(embedding),
            found.k,
            about,
            found.types,
            found.shares,
            found.place(embedding),
        )
    else:
        resolution = 0.5 if resolution is None else resolution
        clusters = leiden(embedding, resolution, seed)
        about |= {"clusters": "Leiden", "resolution": resolution, "seed": seed}
        annotation = Annotation(embedding, clusters, int(clusters.max()) + 1, about)
    write_annotated(file, output, expression, lambda cells: add_results(cells, annotation))
    said = [f"measured: {covered}"] if warning is None else [f"warning: {warning}"]
    if trained.scale == "lab":
        said.append("standardised within this file, as the run did within each lab")
    if integrated:
        said.append(f"integrated {integrated}")
    if (model / "quality.json").exists():
        said.append("the run controlled quality; the cells of this file are not judged")
    for sentence in said:
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(
        f"{len(embedding)} cells in {len(np.unique(annotation.clusters))} clusters "
        f"({about['clusters']}): {output}",
        highlight=False,
        soft_wrap=True,
    )
    if plot is not None:
        from fedsc.plots import embedding_map

        groups = {name: expression.obs[name].astype(str).to_numpy() for name in colour or []}
        groups["fedsc_cluster"] = annotation.clusters.astype(str)
        image = io.BytesIO()
        embedding_map(embedding, groups, seed).savefig(
            image, format=plot.suffix.removeprefix("."), dpi=150
        )
        replace(plot, image.getvalue())
        console.print(f"map: {plot}", highlight=False)


def _integrated(
    embedding: "np.ndarray", cells: "Expression", model: Path, own: Path | None, batch_key: str
) -> tuple["np.ndarray", str]:
    """Move cells as the labs of the run were moved, if they were; say how, ``""`` if not."""
    from fedsc.federated.correction import BatchedCells, correct
    from fedsc.federated.harmony import load_harmony
    from fedsc.federated.harmony_lab import load_correction

    if batch_key and own is None:
        raise DataError(f"--batch-key {batch_key}: goes with --integration")
    harmony = load_harmony(model, embedding.shape[1])
    if harmony is None:
        if own is not None:
            raise DataError(f"--integration {own}: the run did not integrate its labs")
        return embedding, ""
    if own is None:
        fitted = harmony.correct_new_lab(embedding)
        return fitted, "as a new lab: its correction is fitted to the run's centres"
    correction, known = load_correction(own)
    batches = _codes(cells, batch_key, known, own)
    moved = correct(BatchedCells(embedding, batches), correction)
    return moved, "as a file of the lab whose correction was given"


def _codes(cells: "Expression", batch_key: str, known: list[str], own: Path) -> "np.ndarray":
    """Number the batches of a file as its lab did."""
    import numpy as np

    codes, names = cells.batches(batch_key)
    if len(known) > 1 and not names:
        raise DataError(
            f"--integration {own}: the lab has {len(known)} batches ({', '.join(known)}); say with "
            "--batch-key which column names that of each cell, or leave the option out, and the "
            "file is of a new lab"
        )
    if len(known) < 2:
        return np.zeros(len(codes), dtype=np.int64)  # the lab is one batch
    if new := sorted(set(names) - set(known)):
        raise DataError(
            f"--batch-key {batch_key}: the lab had no batch '{new[0]}'; it had {', '.join(known)}"
        )
    of_file = np.array([known.index(name) for name in names], dtype=np.int64)
    return np.asarray(of_file[codes])
