"""What is said of the numbers, and that the page shows it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from compared import report, row
from sparse_encoders.analysis.compare import write_report
from sparse_encoders.analysis.compare.page import as_html
from sparse_encoders.analysis.compare.summary import summarise
from sparse_encoders.analysis.compare.svg import Point, Series, line_plot, stacked_bars, ticks
from sparse_encoders.analysis.compare.text import as_csv, as_markdown

CHROMIUM = Path("/usr/bin/chromium")


def test_the_fastest_of_the_equally_accurate_wins():
    found = summarise(report())
    assert found.headline == (
        "lite wins: 1.42 times as fast as dense at equal AP (0.545 against 0.552, "
        "equal within 0.011)."
    )
    assert {t.title: t.value for t in found.tiles}["of the encoder"] == "\N{MINUS SIGN}55%"
    assert "Highest AP: dense, 0.552; equal to it within the noise: focus 0.5" in found.points[0]
    assert any(
        "lite-focus 0.1, 1.75 times as fast as dense, at AP 0.340" in p for p in found.points
    )
    assert (
        "focus loses AP below a keep ratio of 0.5: 0.549 at 0.5, 0.489 at 0.3, 0.309 at 0.1."
    ) in found.points
    assert any("trained at keep ratio 0.3 and run at the others" in c for c in found.caveats)
    assert any("One training run" in c for c in found.caveats)


def test_a_higher_ap_counts_beyond_the_noise_only():
    dense, better = row("dense", None, 0.5, 0.06, 2.0), row("focus", 0.3, 0.6, 0.03, 1.0)
    found = report([dense, better])
    assert found.ap_verdict(better) == "higher" and found.ap_verdict(dense, better) == "lower"
    assert summarise(found).headline.startswith(
        "focus 0.3 wins: 1.37 times as fast as dense at higher AP (0.600 against 0.500, noise"
    )
    # the same 0.1 apart, but images of which each alone would decide
    better.accuracy["resamples"] = [0.6 + 0.3 * math.sin(i) for i in range(100)]
    assert found.ap_verdict(better) == "equal" and found.ap_margin(better) > 0.3
    better.accuracy["resamples"] = []
    assert found.ap_margin(better) == found.noise


def test_speed_is_compared_round_by_round_and_equal_within_three_percent():
    dense, close = row("dense", None, 0.5, 0.06, 2.0), row("focus", 0.3, 0.5, 0.059, 1.0)
    found = report([dense, close])
    assert found.speed_verdict(close) == "equal"
    assert summarise(found).headline == "No strategy is faster than dense here and as accurate."
    lucky = row("focus", 0.3, 0.5, 0.03, 1.0)
    lucky.rounds = [(0, 0, t, 0) for t in (0.05, 0.2, 0.05, 0.2, 0.05)]
    assert report([dense, lucky]).speed_verdict(lucky) == "equal"  # faster and slower


def test_floor_and_ceiling_win_nothing():
    rows = [row("dense", None, 0.5, 0.06, 2.0), row("oracle", 0.3, 0.7, 0.02, 1.0)]
    found = summarise(report([*rows, row("random", 0.3, 0.2, 0.01, 1.0)]))
    assert found.headline == "No strategy is faster than dense here and as accurate."
    assert "Tokens of the annotated objects (oracle 0.3): AP 0.700." in found.points
    assert found.points[0].startswith("Highest AP: dense, 0.500")


def test_without_accuracy_only_speed_is_claimed():
    rows = [row("dense", None, None, 0.06, 2.0), row("lite", None, None, 0.03, 1.0)]
    for one in rows:
        one.weights = {"source": "none"}
    found = report(rows, pictures=0)
    found.data = None
    said = summarise(found)
    assert said.headline == (
        "lite is the fastest, 1.37 times as fast as dense; accuracy was not measured."
    )
    assert any("random weights" in caveat for caveat in said.caveats)
    assert "AP over" not in as_html(found) and "Kept tokens" not in as_html(found)
    rows = [row("dense", None, None, 0.06, 2.0), row("lite", None, 0.5, 0.03, 1.0)]
    assert "accuracy of dense was not measured" in summarise(report(rows)).headline
    low = report([row("dense", None, 0.01, 0.06, 2.0), row("lite", None, 0.02, 0.03, 1.0)])
    assert "trained too little to rank accuracy" in summarise(low).headline


def test_failures_are_said_and_shown():
    rows = report().rows
    rows[1].error = "ValueError: <too> small"
    found = report(rows)
    assert any("sparse 0.5 FAILED" in point for point in summarise(found).points)
    assert "&lt;too&gt; small" in as_html(found) and "<too>" not in as_html(found)
    assert "| sparse | 0.50 |" in as_markdown(found) and "FAILED" in as_markdown(found)
    rows[0].error = "no"
    assert "baseline dense failed" in summarise(report(rows)).headline
    assert len(as_csv(report(rows)).splitlines()) == 12


def test_markdown_has_units_machine_and_command():
    text = as_markdown(report())
    for wanted in ("latency (ms)", "multiply-adds (G)", "peak memory (MiB)", "Intel <Xeon>"):
        assert wanted in text
    assert "`python tools/compare.py CONFIG --data cells --out work_dirs/cells`" in text
    assert "torch 2.13.0" in text and "240 x 320 pixels" in text


@pytest.mark.parametrize("low", [0.0, -3.0, 0.541, 1e-4, 700.0])
@pytest.mark.parametrize("span", [0.0, 0.002, 1.0, 35.0])
def test_ticks_cover_the_values(low, span):
    found = ticks(low, low + span)
    assert found[0] <= low + 1e-9 and found[-1] >= low + span - 1e-9 and 2 <= len(found) <= 9
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))


def test_plots_need_something_to_show():
    with pytest.raises(ValueError, match="at least one point"):
        line_plot([Series("a", 0, ())], "x", "y", "title")
    with pytest.raises(ValueError, match="at least one"):
        stacked_bars([], ("a",), "ms", "title")
    one = line_plot([Series("a", 0, (Point(1, 2, tip="<b>"),))], "x", "y", "title")
    assert "&lt;b&gt;" in one and "polyline" not in one


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    switches = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    switches += ["--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(CHROMIUM), args=switches)
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser, tmp_path, scheme):
    write_report(report(), tmp_path)
    page = browser.new_page(viewport=dict(width=1280, height=860), color_scheme=scheme)
    problems, asked = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{tmp_path}/report.html")
    assert problems == []
    assert [url for url in asked if not url.startswith("data:")] == [page.url]  # nothing else
    first = page.locator(".first .plot")
    assert first.bounding_box()["y"] + 100 < 860  # seen without scrolling
    assert page.locator("svg.plot").count() == 7
    assert page.locator("#ap-latency .mark").count() == 11 + 5  # rows, legend
    assert page.evaluate("document.images[0].naturalWidth") == 60
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280

    table = page.locator("table").first

    def column(place):
        return table.locator("tbody tr").evaluate_all(
            f"rows => rows.map(row => row.cells[{place}].innerText)"
        )

    assert column(0)[0].startswith("dense")
    table.locator("th button", has_text="latency").click()
    times = [float(text) for text in column(5)]
    assert times == sorted(times) and len(times) == 11
    table.locator("th button", has_text="latency").click()
    assert [float(text) for text in column(5)] == sorted(times, reverse=True)
    table.locator("th button", has_text="encoder").first.click()
    names = [text.split()[0] for text in column(0)]
    assert names == sorted(names)
    table.locator("th button", has_text="ratio").click()
    assert column(1)[0] == "0.10" and column(1)[-2:] == ["-", "-"]  # nothing last
    colours = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colours == "rgb(246, 247, 249)") == (scheme == "light")
    page.close()
