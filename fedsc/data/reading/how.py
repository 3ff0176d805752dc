"""How a file, or an AnnData in memory, is read."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from fedsc.options import kebab

if TYPE_CHECKING:
    from fedsc.options import DataOptions


@dataclass(frozen=True)
class ReadAs:
    """Which values are read, and under which names.

    Attributes
    ----------
    layer
        ``""`` for the main matrix, ``"raw"`` for ``adata.raw``, else a layer's name.
    label_key
        Column with cell types; ``""`` when none is known. The X/Y layout sets it to ``"Y"``.
    symbols
        Column of ``var`` that names the genes; ``""`` = they have the names of ``var``.
    make_unique
        Whether names of genes and cells that repeat get a number at their end; they are refused
        otherwise.
    fold_case
        Whether names of genes are spelt in capitals, so that case does not count.
    """

    layer: str = ""
    label_key: str = ""
    symbols: str = ""
    make_unique: bool = False
    fold_case: bool = False

    @classmethod
    def of(cls, options: "DataOptions") -> "ReadAs":
        """Read as the options of a run say."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def told(self) -> dict[str, str | bool]:
        """Say it in a file with results: by the options' names, but for the column of types."""
        return {kebab(name): value for name, value in asdict(self).items() if name != "label_key"}


AS_IT_IS = ReadAs()
"""The main matrix, without cell types, names as they are."""
