from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from fedsc.baselines.inputs import columns, counts_of, prepare
from fedsc.errors import DataError


def test_counts_are_those_of_the_chosen_genes(cells):
    full = cells()
    counts = full.matrix.toarray()
    counts[3] = 0
    given = replace(full, matrix=csr_matrix(counts))
    matrix, preprocessing = prepare(given, 20, 10.0)
    found = counts_of(given, preprocessing, "test")
    chosen = [list(given.genes).index(gene) for gene in preprocessing.genes]
    np.testing.assert_array_equal(found.matrix.toarray(), counts[:, chosen])
    totals = counts.sum(axis=1)
    median = np.median(totals[totals > 0])
    np.testing.assert_allclose(found.sizes, np.maximum(totals, 1) / median, rtol=1e-3)
    assert matrix.n_genes == len(chosen)


def test_log_normalised_values_are_no_counts(cells):
    given = cells(kind="lognorm")
    _, preprocessing = prepare(given, 20, 10.0)
    with pytest.raises(DataError, match="somemethod models raw counts"):
        counts_of(given, preprocessing, "somemethod")


def test_zero_genes_are_all_that_were_counted(cells):
    given = cells()
    counts = given.matrix.toarray()
    counts[:, 7] = 0
    uncounted = replace(given, matrix=csr_matrix(counts))
    assert prepare(uncounted, 0, 10.0)[0].n_genes == 59


def test_a_single_cell_is_refused(cells):
    with pytest.raises(DataError, match="the file holds 1 cell; clustering needs at least 2"):
        prepare(cells(n_cells=1), 0, 10.0)


def test_columns_stand_in_the_order_asked_for(cells):
    given = cells()
    found = columns(given, given.genes[[9, 2, 30]])
    np.testing.assert_array_equal(found.toarray(), given.matrix.toarray()[:, [9, 2, 30]])
