"""Formulas as MathML, made when the site is built: no script, no font, no network.

Owns the two visitors that Sphinx calls for inline and displayed formulas. Start at `inline`.
"""

from docutils import nodes
from latex2mathml.converter import convert


def inline(translator, node):
    translator.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def display(translator, node):
    translator.body.append('<div class="math">' + convert(node.astext(), display="block") + "</div>\n")
    raise nodes.SkipNode
