import pandas as pd
from matplotlib.figure import Figure

from fedsc.plots.bars import draw_composition, draw_markers


def test_genes_that_are_not_higher_are_no_markers():
    table = pd.DataFrame({"cluster": [0, 0, 1], "gene": list("abc"), "score": [2.0, 0.0, 0.0]})
    panels = list(Figure().subplots(1, 2))
    draw_markers(panels, table, 8)
    named = [[tick.get_text() for tick in axes.get_yticklabels()] for axes in panels]
    assert named == [["a"], []]


def test_composition_is_shares_of_each_lab():
    table = pd.DataFrame([[30, 10], [1, 3]], index=["a", "b"], columns=["0", "1"])
    axes = Figure().subplots()
    draw_composition(axes, table)
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25, 0.25, 0.75]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a (40)", "b (4)"]
    assert axes.get_xlabel() == "share of the lab's cells"
