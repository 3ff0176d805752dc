"""What the server and the labs say to each other: one message a file, both of its sides.

A node may host several labs, so what belongs to one lab is a record of its own, ``"{what}:{lab}"``.
Only weights, sums, and names of genes and of cell types travel; never a cell, the label of a cell
or a private tensor.

===============  ===============================================  =================================
message          server → node                                    node → server, for each lab
===============  ===============================================  =================================
query.describe   —                                                ``about``: number of cells, names
query.ask        ``question``, its arrays, what it is asked of    ``sums``
query.embed      encoder and preprocessing                        ``embedded``: number of cells
query.finish     clusters, their types, map and markers, options  ``finished``: name of the copy
train            ``start`` weights of each lab, preprocessing     ``update`` weights, ``metrics``
===============  ===============================================  =================================

A lab that fails answers with an ``error`` record instead. What a lab replies is believed only
after the reading function of its message has held it against what was asked.
"""
