# SPDX-License-Identifier: Apache-2.0
"""The report's section on the search, as HTML: charts, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from search.records.formatting import format_ms
from search.records.trial import RungRecord, TrialRecord, TrialState
from search.report.gaps import GapContents
from search.report.gaps_chart import candidate_facts, gaps_chart, shown_gaps
from search.report.history import Corner, SearchHistory
from search.report.importance import Importance
from search.report.parallel_coordinates import parallel_coordinates
from search.report.review import SearchReview
from search.report.rung_counts import Pruned, Rival
from search.report.search_charts import (
    CHART_START_SHARE,
    MIN_GAIN_PERCENT,
    history_charts,
    importance_chart,
    rungs_chart,
    share_of_ideal,
)
from search.report.svg import count, duration
from search.report.trial_panels import trials_table
from spaces.student_words import describe

Link = Callable[[str], str | None]
"""From a trial's name to the id of its row on the page, or to the key of its data; None if it has none."""


def search_section(review: SearchReview, link: Link) -> str:
    """The section as HTML; text from the study is escaped."""
    parts = [
        '<section class="search" aria-labelledby="the-search"><h2 id="the-search">The search</h2>',
        f'<p class="lead">{escape(_summary(review))}</p><div class="pair">',
        *_history_panels(review),
        _rungs_panel(review),
        _importance_panel(review),
        "</div>",
        _gaps_panel(review, link),
        _pruned_panel(review, link),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def trials_section(review: SearchReview, front: Sequence[str], key: Link) -> str:
    """Parallel coordinates and the table of all trials; `front` are names of students, `key` gives a trial's key."""
    words = (
        "Every trial with its parameters and the fidelity of its last rung. A trial's name opens its panel: learning "
        "curve, why it ended, and what was logged."
    )
    chart = parallel_coordinates(review, front)
    lines = (
        "Each line is a complete trial, from its parameters to its predicted latency and its fidelity; the lines of "
        "students on the front stand out."
    )
    panels = [_panel("Parameters", f"<p>{lines}</p>{_scroll(chart)}", wide=True)] if chart else []
    panels.append(_panel("All trials", f"<p>{words}</p>{trials_table(review, key)}", wide=True))
    return '<section class="search" aria-labelledby="the-trials"><h2 id="the-trials">The trials</h2>' + (
        "\n".join(panels) + "</section>"
    )


def _summary(review: SearchReview) -> str:
    begun = _begun(review.records)
    words = f"{count(len(begun), 'trial')} began"
    if review.history is not None:
        words += f" and trained on {review.history.n_tokens:,} tokens in {duration(review.history.seconds)}"
    states = {state: sum(record.state is state for record in review.records) for state in TrialState}
    counts = [f"{n} {state.value}" for state, n in states.items() if n]
    return f"{words}: {', '.join(counts)}." if counts else f"{words}."


def _history_panels(review: SearchReview) -> list[str]:
    history, ideal = review.history, review.ideal
    if history is None or ideal is None or not history.steps:
        return [_panel("Hypervolume", "<p>No trial is complete yet.</p>", wide=True)]
    over_tokens, over_time = history_charts(history, ideal)
    cost_limit, error_limit = history.reference
    explained = (
        f"The area that the complete trials dominate, log2 latency times log2 error, up to the reference point of the "
        f"search: {format_ms(2.0**cost_limit)} ms and a fidelity of {review.fidelity_at(error_limit)}. The "
        f"ideal is as fast as the fastest student that was found, {format_ms(2.0 ** ideal[0])} ms, and as faithful "
        f"as the best, {review.fidelity_at(ideal[1])}. Latencies are predicted; a trial counts from the moment it "
        f"was complete. The curve starts at {CHART_START_SHARE:.0%} of the final value."
    )
    time = (
        "Time in which at least one trial ran: workers side by side count once, pauses between commands do not. A "
        "continued trial adds only what it trained itself."
    )
    percent = share_of_ideal(history, ideal)
    rows = [
        [
            _text(step.record.name),
            _text(describe(step.record.spec)),
            _number(duration(step.seconds)),
            _number(f"{step.n_tokens:,}"),
            _number(f"{percent(step.hypervolume):.2f}%"),
            _number(f"{percent(step.gained):+.2f}"),
        ]
        for step in history.steps
    ]
    table = _table(
        ["trial|", "student|", "complete after", "tokens of all", "hypervolume", "gained"],
        rows,
        summary="Both as a table",
    )
    return [
        _panel("Hypervolume over training", f"<p>{explained}</p>{_scroll(over_tokens)}{table}"),
        _panel("Hypervolume over time", f"<p>{time}{_last_gain(history, ideal)}</p>{_scroll(over_time)}"),
    ]


def _last_gain(history: SearchHistory, ideal: Corner) -> str:
    """A sentence on when the last gain was; empty with fewer than two gains."""
    percent = share_of_ideal(history, ideal)
    gains = [step for step in history.steps if percent(step.gained) >= MIN_GAIN_PERCENT]
    if len(gains) < 2:
        return ""
    last = gains[-1]
    return (
        f' The last gain, by <span class="name">{escape(last.record.name)}</span>, came after {duration(last.seconds)} '
        f"of {duration(history.seconds)}."
    )


def _rungs_panel(review: SearchReview) -> str:
    begun = len(_begun(review.records))
    if not begun:
        return _panel("Rungs", "<p>No trial has begun yet.</p>")
    saved = _saved_tokens(review)
    words = "Trials that reached each rung, by what happened next; one that was interrupted and continued counts once."
    if saved is not None:
        words += f" Pruning saved {saved:.0%} of the tokens that all trials would have taken."
    other = ", ".join(f"{n} {escape(state)}" for state, n in review.unmeasured.items())
    if other:
        words += f" Without any rung: {other}."
    rows = [
        [
            _number(f"{rung.n_tokens:,}"),
            *(
                _number(str(n))
                for n in (rung.arrived, rung.continued, rung.complete, rung.pruned, rung.failed, rung.interrupted)
            ),
        ]
        for rung in review.rungs
    ]
    head = ["rung", "arrived", "continued", "complete", "pruned", "failed", "interrupted"]
    chart = rungs_chart(review.rungs, n_begun=begun)
    return _panel("Rungs", f"<p>{words}</p>{_scroll(chart)}{_table(head, rows, summary='As a table')}")


def _saved_tokens(review: SearchReview) -> float | None:
    """Share of the tokens of all complete and pruned trials that pruning saved; None if nothing was pruned."""
    last = review.rungs[-1].n_tokens if review.rungs else 0
    saved = sum(last - each.target for each in review.pruned)
    whole = last * (review.complete + len(review.pruned))
    return saved / whole if saved and whole else None


def _importance_panel(review: SearchReview) -> str:
    words = (
        "Sobol indices of the logarithms of error and latency over the whole space: the share of the variance that a "
        "dimension explains alone (first order, dark) and together with others (total effect, light). Whiskers are 90% "
        "intervals over models of two thirds of the trials; where they are too wide, no bar is drawn."
    )
    if review.fidelity.dimensions and review.fidelity.explained is not None:
        words += (
            f" Fidelity is the surrogate model's prediction, which explains {review.fidelity.explained:.0%} of the "
            "variance between complete trials (leave-one-out)."
        )
    by_name: dict[str, list[Importance | None]] = {}
    for k, shares in enumerate((review.fidelity, review.latency)):
        for each in shares.dimensions:
            by_name.setdefault(each.name, [None, None])[k] = each
    rows = [
        [_text(name), *(cell for each in pair for cell in _importance_cells(each))] for name, pair in by_name.items()
    ]
    head = [
        *("dimension|", "fidelity: total effect", "90% interval", "first order"),
        *("latency: total effect", "90% interval", "first order"),
    ]
    table = _table(head, rows, summary="As a table") if rows else ""
    chart = importance_chart(review.fidelity, review.latency)
    return _panel("Sobol indices", f"<p>{words}</p>{_scroll(chart)}{table}")


def _importance_cells(each: Importance | None) -> list[str]:
    if each is None:
        return [_number("")] * 3
    numbers = (f"{each.total_effect:.3f}", f"{each.low:.3f} to {each.high:.3f}", f"{each.first_order:.3f}")
    return [_number(words) for words in numbers]


def _gaps_panel(review: SearchReview, link: Link) -> str:
    if not any(position.on_front for position in review.positions):
        return ""
    words = (
        "The Pareto front of the complete brief trials, at predicted latencies. A gap is what a student as fast as one "
        "neighbour and as faithful as the next would add; one of more than 1.5 times the mean is wide. The ends reach "
        "to the fastest student of the space, and to half the error at the teacher's latency. "
        f"{review.n_candidates:,} untried points were evaluated."
    )
    shown = shown_gaps(review)
    if not shown:
        words += " No gap is wide."
    rows = [_gap_row(review, letter, i, each, link) for letter, i, each in shown]
    head = ["gap|", "latency, ms", "fidelity", "could add", "tried there|", "predicted there|"]
    table = _table(head, rows) if rows else ""
    return _panel("Empty regions of the front", f"<p>{words}</p>{_scroll(gaps_chart(review))}{table}", wide=True)


def _gap_row(review: SearchReview, letter: str, number: int, each: GapContents, link: Link) -> list[str]:
    gap = each.gap
    high = review.fidelity_at(gap.low_error)
    low = "the reference" if gap.faster is None else review.fidelity_at(gap.high_error)
    whole = ""
    if review.history is not None and review.ideal is not None:
        whole = f"{share_of_ideal(review.history, review.ideal)(gap.area):.2f}%"
    return [
        _text(letter),
        _number(f"{format_ms(2.0**gap.low_cost)} to {format_ms(2.0**gap.high_cost)}"),
        _number(f"{low} to {high}"),
        _number(whole),
        f'<td class="words">{_tried(review, each, link)}</td>',
        f'<td class="words">{_predicted(review, number)}</td>',
    ]


def _tried(review: SearchReview, each: GapContents, link: Link) -> str:
    if not each.tried:
        return "nothing"
    closest = each.tried[0]
    record = next((one for one in review.records if one.number == closest.number), None)
    if record is None:
        return escape(count(len(each.tried), "trial"))
    verb = "reached" if closest.measured else "is predicted to reach"
    short = ", as faithful as its faster neighbour" if abs(closest.excess) < 5e-5 else ""
    if closest.excess >= 5e-5:
        short = f", {closest.excess:.4f} short of its faster neighbour"
    return (
        f"{count(len(each.tried), 'trial')}; closest is {_linked(record.name, link)} "
        f"({escape(describe(record.spec))}), which {verb} {review.fidelity_at(closest.error)}{short}"
    )


def _predicted(review: SearchReview, number: int) -> str:
    facts = candidate_facts(review, number)
    if not facts:
        return "no untried student with such a latency was found"
    return escape("; ".join(facts))


def _pruned_panel(review: SearchReview, link: Link) -> str:
    if not review.pruned:
        return _panel("Pruned trials", "<p>No trial was pruned.</p>", wide=True)
    words = (
        "A trial is pruned at a rung if a trial that is no slower and got as far is predicted to end with less error, "
        "and a new trial has more expected gain per token. The dominating trials are listed, with their fidelity there."
    )
    rows = [
        [
            _cell(_linked(each.record.name, link)),
            _text(describe(each.record.spec)),
            _number("" if each.record.predicted_latency_ms is None else format_ms(each.record.predicted_latency_ms)),
            _number(f"{each.target:,}"),
            _number(_fidelity(review, each.rung)),
            f'<td class="words">{_rivals(review, each, link)}</td>',
        ]
        for each in review.pruned
    ]
    head = ["trial|", "student|", "ms", "pruned at", "fidelity there", "dominated by|"]
    summary = None if len(rows) <= 12 else f"All {len(rows)} pruned trials"
    return _panel("Pruned trials", f"<p>{words}</p>{_table(head, rows, summary=summary)}", wide=True)


def _rivals(review: SearchReview, each: Pruned, link: Link) -> str:
    if not each.rivals:
        return escape(str(each.record.outcome or ""))
    return "; ".join(_rival(review, rival, link) for rival in each.rivals)


def _rival(review: SearchReview, rival: Rival, link: Link) -> str:
    words = _linked(rival.name, link)
    if rival.record is None:
        return words
    facts = [escape(describe(rival.record.spec))]
    if rival.rung is not None:
        facts.append(_fidelity(review, rival.rung))
    if rival.record.predicted_latency_ms is not None:
        facts.append(f"{format_ms(rival.record.predicted_latency_ms)} ms")
    return f"{words} ({', '.join(facts)})"


def _fidelity(review: SearchReview, rung: RungRecord) -> str:
    return review.objective.format(review.objective.of(rung.fidelity))


def _begun(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.state is not TrialState.REFUSED]


def _linked(name: str, link: Link) -> str:
    row = link(name)
    return escape(name) if row is None else f'<a class="trial-link" href="#{escape(row)}">{escape(name)}</a>'


def _panel(title: str, content: str, *, wide: bool = False) -> str:
    style = "panel wide" if wide else "panel"
    return f'<section class="{style}"><h3>{escape(title)}</h3>{content}</section>'


def _scroll(content: str) -> str:
    return f'<div class="scroll">{content}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, summary: str | None = None) -> str:
    """A table; a heading that ends in `|` marks a text column. With a `summary` it is a collapsed `<details>`."""
    heads = "".join(
        f'<th scope="col" class="{"text" if name.endswith("|") else "number"}">{escape(name.removesuffix("|"))}</th>'
        for name in head
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return table if summary is None else f"<details><summary>{escape(summary)}</summary>{table}</details>"


def _cell(markup: str) -> str:
    return f"<td>{markup}</td>"


def _text(words: str) -> str:
    return f"<td>{escape(words)}</td>"


def _number(words: str) -> str:
    return f'<td class="number">{escape(words)}</td>'
