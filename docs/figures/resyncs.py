#!/usr/bin/env python3
"""Draws resyncs.svg from resyncs.tsv, which are both in this folder: full resyncs in each scenario of
tests/it/resync, a column for each pair of servers. See that file for how to measure anew."""
import os
from html import escape

FOLDER = os.path.dirname(os.path.abspath(__file__))
LEFT, TOP, COLUMN, ROW = 290, 84, 102, 22

STYLE = """
    text { fill: #1f2328; }
    .card { fill: #ffffff; }
    .soft { fill: #59636e; font-size: 12px; }
    .line { stroke: #d0d7de; }
    .mid { text-anchor: middle; }
    .none { fill: #bcd9c8; }
    .some { fill: #ead9b8; }
    .many { fill: #e5b9a8; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .card { fill: #0d1117; }
      .soft { fill: #9da7b1; }
      .line { stroke: #30363d; }
      .none { fill: #24503a; }
      .some { fill: #54452a; }
      .many { fill: #6b3528; }
    }
"""


def read():
    """The scenarios and the pairs in the order of the file, and the outcome of each."""
    outcomes = {}
    with open(os.path.join(FOLDER, "resyncs.tsv")) as file:
        for line in file:
            scenario, primary, replica, outcome = line.rstrip("\n").split("\t")
            outcomes[scenario, (primary, replica)] = outcome
    scenarios = list(dict.fromkeys(scenario for scenario, _ in outcomes))
    pairs = list(dict.fromkeys(pair for _, pair in outcomes))
    return scenarios, pairs, outcomes


def cell(x, y, outcome):
    kind = {"0": "none"}.get(outcome, "some" if outcome in ("1", "2") else "many")
    text = outcome.replace(" and not settled", "+ …")
    return (f'  <rect class="{kind}" x="{x + 3}" y="{y + 2}" width="{COLUMN - 6}" height="{ROW - 4}" rx="3"/>\n'
            f'  <text class="mid" x="{x + COLUMN / 2:g}" y="{y + 16}">{escape(text)}</text>')


def main():
    scenarios, pairs, outcomes = read()
    width = LEFT + COLUMN * len(pairs) + 20
    height = TOP + ROW * (len(scenarios) + 1) + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-labelledby="title desc"\n'
        "     font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\" "
        'font-size="14">',
        '  <title id="title">Full resyncs, by scenario and pair of servers</title>',
        '  <desc id="desc">A row for each scenario, a column for each pair of primary and replica. '
        "The numbers are those of resyncs.tsv.</desc>",
        f"  <style>{STYLE}  </style>",
        f'  <rect width="{width}" height="{height}" rx="10" class="card"/>',
        '  <text x="20" y="34">Full resyncs after the first sync</text>',
        f'  <text class="soft" x="{LEFT - 12}" y="52" text-anchor="end">primary</text>',
        f'  <text class="soft" x="{LEFT - 12}" y="70" text-anchor="end">replica</text>',
    ]
    for column, pair in enumerate(pairs):
        x = LEFT + COLUMN * column + COLUMN / 2
        for name, y in zip(pair, (52, 70)):
            out.append(f'  <text class="mid" x="{x:g}" y="{y}">{escape(name)}</text>')
    for row, scenario in enumerate(scenarios):
        y = TOP + ROW * row
        out.append(f'  <text x="20" y="{y + 16}">{escape(scenario)}</text>')
        for column, pair in enumerate(pairs):
            out.append(cell(LEFT + COLUMN * column, y, outcomes.get((scenario, pair), "?")))
    y = TOP + ROW * len(scenarios) + 6
    out.append(f'  <path class="line" d="M20 {y}H{width - 20}"/>')
    out.append(f'  <text x="20" y="{y + 20}">scenarios with any, of {len(scenarios)}</text>')
    for column, pair in enumerate(pairs):
        count = sum(outcomes.get((scenario, pair), "?") != "0" for scenario in scenarios)
        x = LEFT + COLUMN * column + COLUMN / 2
        out.append(f'  <text class="mid" x="{x:g}" y="{y + 20}">{count}</text>')
    out.append("</svg>")
    with open(os.path.join(FOLDER, "resyncs.svg"), "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
