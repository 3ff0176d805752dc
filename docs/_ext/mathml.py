"""Equations as MathML, which browsers draw themselves: the site asks no other host for MathJax."""

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

_BLOCK = "margin: 1.2rem 0; overflow-x: auto; text-align: center"


def _inline(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise SkipNode


def _block(translator, node):
    equation = tex2mathml(node.astext(), as_block=True)
    translator.body.append(translator.starttag(node, "div", "", STYLE=_BLOCK))
    translator.body.append(f"{equation}</div>\n")
    raise SkipNode


def setup(app):
    """Register the renderer; ``html_math_renderer = "mathml"`` chooses it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
