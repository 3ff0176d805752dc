"""``fedsc concat``: the labs' files of a run as one, where their owners may join them."""

from pathlib import Path
from typing import Annotated

import typer

from fedsc.cli.output import Force, check_output
from fedsc.errors import ConfigError


def concat(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Folder of a simulated run, or labs' files with results of one run."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the cells go (.h5ad).")],
    force: Force = False,
) -> None:
    """Join labs' files with results into one .h5ad. They may be larger than memory.

    X, layers and raw are read a block of cells at a time. What is between cells (obsp) is left out.
    `obs["fedsc_lab"]` says whose a cell is. Cells that two labs name alike are called NAME-LAB.
    Genes have the names the run knew them by. Where the run read different layers of the labs'
    files, X holds what it read, and layers and raw are left out.

    **Examples**

    `fedsc concat runs/my-run -o all.h5ad`

    `fedsc concat A.fedsc.h5ad B.fedsc.h5ad -o all.h5ad`
    """
    from fedsc.data.joined import write_joined
    from fedsc.results import load

    for path in sources:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
    if len(sources) == 1 and sources[0].is_dir():
        labs = load(sources[0]).labs
        files = {lab: labs.path(lab) for lab in labs}
    else:
        files = {path.name.removesuffix(".h5ad").removesuffix(".fedsc"): path for path in sources}
        if len(files) < len(sources):
            raise ConfigError("two files have one name, which is to be the lab's: rename one")
    if output.exists() and any(output.samefile(file) for file in files.values()):
        raise ConfigError(f"{output} is one of the labs' files: name another output")
    check_output(output, ".h5ad", force=force)
    n_cells = write_joined(files, output)
    typer.echo(f"{n_cells} cells of {len(files)} labs: {output}")
