# SPDX-License-Identifier: Apache-2.0
"""A summary of a search as text for the terminal; the HTML report has the same numbers as charts and tables."""

from __future__ import annotations

from search.records.formatting import format_ms
from search.records.trial import TrialState
from search.report.gaps_chart import candidate_facts, shown_gaps
from search.report.review import SearchReview, SobolIndices
from search.report.search_charts import MAX_INTERVAL_WIDTH, share_of_ideal
from search.report.svg import count, duration

_TRAINING_SHARES = (0.25, 0.5, 1.0)  # shares of the training tokens at which the hypervolume is shown


def search_lines(review: SearchReview) -> str:
    """The summary, lines joined by newlines: trials, hypervolume, rungs, total-effect Sobol indices, wide gaps."""
    lines = [f"trials       {_states(review)}"]
    if review.history is not None and review.ideal is not None and review.history.steps:
        lines.append(f"hypervolume  {_hypervolume(review)}")
    for rung in review.rungs:
        words = [f"{rung.arrived} arrived"]
        words += [f"{n} {state}" for state in ("pruned", "failed", "complete") if (n := getattr(rung, state))]
        lines.append(f"rung         {rung.n_tokens:,} tokens: {', '.join(words)}")
    lines.append(f"fidelity     {_sobol_indices(review.fidelity)}")
    lines.append(f"latency      {_sobol_indices(review.latency)}")
    for _, number, each in shown_gaps(review):
        gap = each.gap
        high = "the teacher" if gap.more_faithful is None else review.fidelity_at(gap.low_error)
        low = "the reference" if gap.faster is None else review.fidelity_at(gap.high_error)
        words = [
            f"{format_ms(2.0**gap.low_cost)} to {format_ms(2.0**gap.high_cost)} ms, fidelity {low} to {high}",
            f"{count(len(each.tried), 'trial')} there",
        ]
        facts = candidate_facts(review, number)
        words.append(f"untried: {', '.join(facts)}" if facts else "no untried point was found there")
        lines.append(f"wide gap     {'; '.join(words)}")
    return "\n".join(lines)


def _states(review: SearchReview) -> str:
    counts = [f"{n} {state.value}" for state in TrialState if (n := sum(one.state is state for one in review.records))]
    words = ", ".join(counts) or "none"
    if review.history is None:
        return words
    return f"{words}; {review.history.n_tokens:,} training tokens in {duration(review.history.seconds)}"


def _hypervolume(review: SearchReview) -> str:
    history, ideal = review.history, review.ideal
    assert history is not None and ideal is not None
    percent = share_of_ideal(history, ideal)
    words = []
    for part in _TRAINING_SHARES:
        had = [step.hypervolume for step in history.steps if step.n_tokens <= part * history.n_tokens]
        words.append(f"{percent(had[-1]) if had else 0.0:.2f}% after {part:.0%}")
    return f"{', '.join(words)} of the training tokens (percent of the ideal student's)"


def _sobol_indices(shares: SobolIndices) -> str:
    if not shares.dimensions:
        return shares.reason
    words = []
    for each in shares.dimensions:
        interval = f"{100 * each.low:.0f} to {100 * each.high:.0f}%"
        unclear = each.high - each.low > MAX_INTERVAL_WIDTH
        share = "unclear" if unclear else f"{100 * each.total_effect:.0f}%"
        words.append(f"{each.name} {share} ({interval})")
    return f"variance explained by {', '.join(words)}"
