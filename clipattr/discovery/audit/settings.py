"""Settings: every constant that decides in an audit, with its unit and its reason.

Effects are in units of the prompt's own contrast (how far its own pictures lie above the others), so that one value
serves a model whose cosines spread over 0.5 and one whose cosines spread over 0.05. Start at `Settings`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What makes a reliance worth reporting.

    Attributes:
        least_effect: units; the lower bound of the causal effect on the measuring half must reach it. 0.04 is a
            twenty-fifth of what sets the prompt's own pictures off.
        least_rise: units; the same for what inserting the prompt as text adds. Half of it, as no model has learnt the
            inserted fonts.
        least_difference: rate difference, 0 to 1, by which a concept must be more frequent on its own pictures than
            elsewhere to be a candidate; half of it must remain on the measuring half. Below 0.2 many are lookalikes.
            The lower bound over both halves must reach it.
        nameless: rate difference above which latents that no word names are followed up; 1 follows up none. On the
            bundled worlds a quarter of such findings were wrong, and nobody can read the others.
        discovery_rate: false-discovery rate over all words (and latents) of one prompt, 0 to 1.
        sparsity: penalty of the sparse decomposition of pictures into words, cosine. 0.2 gave the best separation at
            three strengths of evaluator.
        seen: weight in that decomposition from which a word counts as seen.
        surely: weight from which a word counts as surely seen: in measurements of a concept's effect, pictures that
            only resemble it would dilute the effect.
        fits: among so many best words of a picture a prompt counts as shown, besides being seen.
        one_name: cosine of the evaluator's centred texts from which two words are names of one concept, which compete
            for a picture as one, as in a joined dictionary. On worlds with three names a concept they have at least
            0.99, distinct concepts at most 0.94.
        same_text: cosine of centred texts from which two names are one concept.
        passes: units; pictures that show another sense or look must score at least so far towards the prompt's own.
        part_effect: units; the same for a part of the prompt's name.
        by_text: share of that score that the likeness of the two texts alone explains, from which it is a confusion of
            the text tower and no finding.
        kept: share of a family's codes that may be left without its candidate. Its removal must silence half of them;
            with 0.5 as measured every second family at the border fell short of that.
        loses: share of a candidate that the evaluator must lose in an occluded window. stays: share of the prompt, over
            other pictures, that it must still see there; both leave room for windows that cut into the object.
        silent: share of a latent's activation that may be left where its candidate is occluded.
        few: pictures below which nothing is said.
        most: pictures measured for one candidate; more would not narrow an interval by much.
        candidates: words, and as many latents, followed up for one prompt.
        spread: largest share of one answer among the other pictures on which a latent fires; above it the latent
            belongs to that answer, and is no mark or place that many objects share.
        least_confidence: confidence below which a finding is left out, 0 to 1. At 0.5 findings are left out that are
            likelier wrong than right; 0 reports all that hold.
        budget: forward passes per prompt, of either model, beyond what the study holds; 0 asks nothing directly.
        first, inserted: pictures that a prompt is inserted into, at the first of several looks and after the last.
        given_up: probability, over all looks, of giving up a prompt whose final test would have an even chance. At
            0.05 insertion takes 15 pictures per prompt on the worlds that constants are chosen on, 20 at 0.01, in place
            of 34 with one look at the interval.
        occluded: own pictures occluded to see which latents a candidate silences; twelve forward passes each. On the
            worlds that constants are chosen on four lose a finding and add one where nothing was planted.
        controls: other words inserted into the same pictures, once for a study.
        rivals: words that compete for a picture in the audited model, those seen most often.
    """

    least_effect: float = 0.04
    least_rise: float = 0.02
    least_difference: float = 0.2
    nameless: float = 1.0
    discovery_rate: float = 0.01
    sparsity: float = 0.2
    seen: float = 0.02
    surely: float = 0.1
    fits: int = 10
    one_name: float = 0.97
    same_text: float = 0.8
    passes: float = 0.5
    part_effect: float = 0.1
    by_text: float = 0.5
    kept: float = 0.45
    loses: float = 0.35
    stays: float = 0.7
    silent: float = 0.5
    few: int = 5
    most: int = 128
    candidates: int = 24
    spread: float = 0.3
    least_confidence: float = 0.5
    budget: int = 60
    first: int = 8
    given_up: float = 0.05
    inserted: int = 36
    occluded: int = 2
    controls: int = 6
    rivals: int = 4096
