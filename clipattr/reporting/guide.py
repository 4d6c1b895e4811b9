"""Parts of the report's page that explain and steer it: how to read it, and the fields that filter its table.

Owns these texts. Computes nothing. Start at `guide_html`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipattr.discovery import finding as one_finding
from clipattr.display.wording import KIND_WORDS, capital, kind_word

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding


def guide_html(found: Sequence[Finding]) -> str:
    """The words of the page, and the kinds of findings on it."""
    terms = {
        "What a finding says": "The score of a prompt depends strongly on a family of latents (parts of the picture's "
        "embedding) that, by an independent model, does not represent what the prompt names.",
        "Points": "Cosine similarity × 100, of the prompt minus the mean over the vocabulary, so that a latent that "
        "raises every prompt equally does not count.",
    }
    terms |= {
        capital(column.label): capital(column.tip) + "." for column in one_finding.COLUMNS if column.tip
    }
    for kind in dict.fromkeys(f.kind for f in found):
        word, sentence = KIND_WORDS.get(kind, (kind_word(kind), ""))
        terms[f"Kind: {word}"] = capital(sentence) + "." if sentence else ""
    items = "".join(
        f"<div><dt>{html.escape(t)}</dt><dd>{html.escape(d)}</dd></div>" for t, d in terms.items()
    )
    return (
        '<section class="guide" aria-labelledby="guide"><h2 id="guide">How to read this page</h2>'
        f"<dl>{items}</dl></section>"
    )


def tools_html(found: Sequence[Finding]) -> str:
    """The fields that filter the table; hidden until the page's script shows them."""
    kinds = "".join(
        f'<option value="{html.escape(kind)}">{html.escape(kind_word(kind))}</option>'
        for kind in dict.fromkeys(f.kind for f in found)
    )
    return f"""<div class="tools" hidden>
<label>find <input type="search" placeholder="prompt or cause"></label>
<label>kind <select><option value="">all</option>{kinds}</select></label>
<label>name of the cause <select><option value="">all</option><option value="sure">not doubted</option>
<option value="doubted">doubted</option></select></label> <output aria-live="polite"></output></div>"""
