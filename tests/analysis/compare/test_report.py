"""What is said of the numbers, and that the files and the page hold them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from compared import report, row
from sparse_encoders.analysis.report import read_report
from sparse_encoders.analysis.report.__main__ import main as redraw
from sparse_encoders.analysis.report.figures import plots
from sparse_encoders.analysis.report.page import as_html, as_markdown, write_report
from sparse_encoders.analysis.report.ranking import cheaper, cheapest_equal, front, shown
from sparse_encoders.analysis.report.summary import summarise
from sparse_encoders.analysis.report.tables import all_numbers, tables

CHROMIUM = Path("/usr/bin/chromium")
REPORTS = Path(__file__).parents[3] / "docs/reports"
#: AP of four runs
RUNS = (0.500, 0.510, 0.490, 0.505)


def labels(rows):
    return [one.label for one in rows]


def near(encoder, ratio, shift, time, madds):
    """A row whose runs differ from the baseline's by nearly the same."""
    return row(encoder, ratio, [ap + shift for ap in RUNS], time, madds, noise=1e-3)


def test_the_headline_names_the_front():
    actual = report()
    # focus 0.1 and sparse 0.1 are as fast as lite-focus 0.5 or slower, and lower in AP
    fastest = [f"lite-focus {ratio}" for ratio in (0.5, 0.3, 0.1)]
    assert labels(front(actual)) == ["dense", "focus 0.5", "lite", *fastest]
    said = summarise(actual)
    assert said.warnings == ()
    for number in ("dense (AP 0.552", "focus 0.5 (AP 0.549, -0.003, undecided; 1.33", "2 more"):
        assert number in said.headline
    assert {t.title: t.value for t in said.tiles}["of the encoder"] == "\N{MINUS SIGN}55%"
    assert "dense, 0.552" in said.points[1] and "focus 0.5" in said.points[1]
    assert any("lite-focus 0.1, 1.75 times" in p and "0.340" in p for p in said.points)
    assert any("0.549 at 0.5, 0.489 at 0.3, 0.309 at 0.1" in p for p in said.points)
    # one run, the tests, no control, trained at another ratio, the machine
    assert len(said.caveats) == 5 and any("keep ratio 0.3" in c for c in said.caveats)


def test_a_faster_row_of_equal_ap_takes_the_place_of_a_slower_one():
    lite = near("lite", None, -0.001, 0.03, 1.0)
    actual = report([near("dense", None, 0.0, 0.06, 2.0), lite])
    assert actual.ap_verdict(lite) == "equal" and front(actual) == [lite]
    assert cheapest_equal(actual) is shown(actual) is lite
    said = summarise(actual)
    assert "lite" in said.headline and "equal within 0.01" in said.points[0]
    assert any("mean of 4 training runs" in caveat for caveat in said.caveats)
    actual.margin = 0.001
    assert actual.ap_verdict(lite) != "equal" and labels(front(actual)) == ["dense", "lite"]


def test_equal_speeds_are_decided_by_ap_and_what_misleads_is_said_first():
    rows = [row("dense", None, 0.092, 0.060, 2.0), row("lite", None, 0.105, 0.050, 1.0)]
    rows.append(row("focus", 0.1, 0.607, 0.0502, 0.9))
    for one, epochs in zip(rows, (1, 1, 12), strict=True):
        one.weights.update(epochs=epochs)
    actual = report(rows)
    assert actual.time_share(rows[1]) == pytest.approx(actual.time_share(rows[2]), rel=0.01)
    assert front(actual) == [rows[2]] and shown(actual) is cheapest_equal(actual) is rows[2]
    said = summarise(actual)
    baseline, trainings = said.warnings
    assert "dense has AP 0.092, focus 0.1 0.607" in baseline
    assert "dense and lite: epochs 1; focus 0.1: epochs 12" in trainings
    assert "focus 0.1 (AP 0.607" in said.headline and "lite" not in said.headline
    for text in (as_markdown(actual), as_html(actual)):
        assert text.index(baseline) < text.index(said.headline)
    for one in rows:
        one.weights.update(epochs=12, iterations=624, schedule="a")
    rows[0].runs[0]["metrics"].update({"coco/bbox_mAP": 0.5})
    assert summarise(actual).warnings == ()
    rows[1].weights.update(schedule="b")
    (other,) = summarise(actual).warnings
    assert "schedule a" in other and "schedule b" in other


def test_a_control_that_does_as_well_is_said_first():
    rows = [near("dense", None, 0.0, 0.06, 2.0), near("focus", 0.3, 0.0003, 0.03, 1.2)]
    actual = report([*rows, near("dense-1", None, 0.0002, 0.02, 1.0)])
    (warning,) = summarise(actual).warnings
    assert "dense-1 (a control), 1.56 times as fast" in warning
    assert "dense-1 (a control)" in summarise(actual).points[0]
    said = summarise(report([*rows, near("dense-1", None, -0.2, 0.02, 1.0)]))
    assert said.warnings == () and "focus 0.3" in said.points[0]


def test_a_higher_ap_counts_beyond_the_noise_only():
    dense, better = row("dense", None, 0.5, 0.06, 2.0), row("focus", 0.3, 0.6, 0.03, 1.0)
    actual = report([dense, better])
    assert actual.ap_verdict(better) == "higher" and actual.ap_verdict(dense, better) == "lower"
    assert front(actual) == [better] and "0.600" in summarise(actual).headline
    # the same 0.1 apart, but images of which each alone would decide
    better.runs[0]["resamples"] = [0.6 + 0.3 * math.sin(i) for i in range(100)]
    assert actual.ap_verdict(better) == "undecided" and actual.gain(better).half_width() > 0.3
    better.runs[0]["resamples"] = []
    assert actual.gain(better).half_width() is None and actual.ap_verdict(better) == "undecided"


def test_speed_is_compared_round_by_round_and_equal_within_three_percent():
    dense, close = row("dense", None, 0.5, 0.06, 2.0), row("focus", 0.3, 0.5, 0.059, 1.0)
    actual = report([dense, close])
    assert actual.speed_verdict(close) == "equal" and shown(actual) is None
    lucky = row("focus", 0.3, 0.5, 0.03, 1.0)
    lucky.rounds = [(0, 0, t, 0) for t in (0.05, 0.2, 0.05, 0.2, 0.05)]
    assert report([dense, lucky]).speed_verdict(lucky) == "equal"  # faster and slower
    for one in (dense, close):  # nothing was timed: work decides
        one.rounds = None
    assert cheaper(actual, close, dense) == "faster" and cheaper(actual, dense, close) == "slower"


def test_a_ceiling_that_reads_the_annotations_wins_nothing():
    rows = [row("dense", None, 0.5, 0.06, 2.0), row("oracle", 0.3, 0.7, 0.02, 1.0)]
    actual = report([*rows, row("random", 0.3, 0.2, 0.01, 1.0)])
    assert labels(front(actual)) == ["dense", "random 0.3"]
    points = summarise(actual).points
    assert "dense, 0.500" in points[1]
    assert any("oracle 0.3" in p and "0.700" in p for p in points)


def test_without_accuracy_only_speed_is_claimed():
    headlines = set()
    for dense, lite in ((None, None), (None, 0.5), (0.01, 0.02)):
        rows = [row("dense", None, dense, 0.06, 2.0), row("lite", None, lite, 0.03, 1.0)]
        actual = report(rows)
        assert shown(actual).label == "lite" and "1.37" in summarise(actual).headline
        headlines.add(summarise(actual).headline)
    assert len(headlines) == 3  # not measured, not of the baseline, trained too little
    rows = [row("dense", None, None, 0.06, 2.0), row("lite", None, None, 0.03, 1.0)]
    for one in rows:
        one.weights = {"source": "none"}
    actual = report(rows, pictures=0)
    actual.data = None
    assert len(summarise(actual).caveats) == 2  # random weights, the machine
    assert set(plots(actual)) == {"stage-latency", "stage-madds"}
    assert "<figure" not in as_html(actual)


def test_failures_are_said_and_shown():
    rows = report().rows
    rows[1].error = "ValueError: <too> small"
    actual = report(rows)
    assert any("sparse 0.5" in p and "<too>" in p for p in summarise(actual).points)
    page = as_html(actual)
    assert "&lt;too&gt; small" in page and "<too>" not in page
    assert all_numbers(actual)["status"].tolist() == ["ok", "FAILED", *["ok"] * 9]
    assert "FAILED" in as_markdown(actual)
    rows[0].error = "no"
    assert summarise(actual).tiles == () and shown(actual) is None
    assert "dense failed" in summarise(actual).warnings[0] and len(all_numbers(actual)) == 11


def test_tables_have_the_numbers_and_leave_out_what_was_not_measured():
    actual = report()
    numbers = all_numbers(actual)
    for (_, line), one in zip(numbers.iterrows(), actual.rows, strict=True):
        assert (line.encoder, line.ap, line.ap_large) == (one.encoder, one.ap, None)
        assert line.latency_ms == pytest.approx(one.milliseconds)
        stages = line.filter(regex="latency_(back|neck|enc|dec)")
        assert len(stages) == 4 and stages.sum() == pytest.approx(line.latency_ms)
        parts = line.filter(like="gmadds_").drop("gmadds_encoder")  # the sum of two of them
        assert parts.sum() == pytest.approx(line.gmadds)
        share = 100 * one.memory_mib / actual.reference.memory_mib
        assert line.memory_share == pytest.approx(share)
    sections = {table.title: table for table in tables(actual)}
    assert len(sections) == 5
    overview = sections["All variants"].shown()[["encoder", "keep_ratio", "ap", "ap_gain"]]
    assert overview.loc[0].tolist() == ["dense", "-", "0.552", "-"]
    assert overview.loc[1].tolist() == ["sparse", "0.50", "0.541", "-0.011"]
    assert "ap_large" not in sections["Accuracy and tokens"].frame
    assert "| encoder.values (G)" in sections["Multiply-adds"].as_markdown()


def test_markdown_has_units_machine_command_and_how_rows_were_trained():
    actual = report()
    actual.rows[2].weights.update(trained_keep_ratio=None, trained_keep_range=(0.2, 0.9))
    actual.matched = "dense-matched has 2 of 6 dense layers"
    text = as_markdown(actual)
    for expected in (
        *("latency (ms)", "multiply-adds (G)", "peak memory (MiB)", "Intel <Xeon>", "torch 2.13.0"),
        *(f"`{actual.command}`", "240 x 320 pixels", "0.2 to 0.9", actual.matched),
    ):
        assert expected in text
    assert "dense-matched" not in as_markdown(report())


def test_figures_have_the_numbers():
    actual = report()
    figures = plots(actual)
    assert len(figures) == 7
    curves = {trace.name: trace for trace in figures["ap-latency"].data}
    assert list(curves) == actual.encoders
    focus = [one for one in actual.rows if one.encoder == "focus"]
    assert list(curves["focus"].y) == [one.ap for one in focus]
    assert list(curves["focus"].x) == [one.milliseconds for one in focus]
    assert list(curves["focus"].text) == ["0.5", "0.3", "0.1"]
    assert list(curves["focus"].error_y.array) == [one.estimate.half_width() for one in focus]
    ratios = {trace.name: trace for trace in figures["ratio-corr"].data}
    assert list(ratios["sparse"].x) == [0.5, 0.3, 0.1] and list(ratios["lite"].x) == [1.0]
    *stages, whole = figures["stage-latency"].data
    sums = [sum(values) for values in zip(*(stage.x for stage in stages), strict=True)]
    assert sums == pytest.approx(list(whole.x))
    work = figures["stage-madds"].data[-1]
    assert list(work.x) == pytest.approx([one.madds() for one in actual.rows])
    alone = report([row("dense", None, 0.5, 0.06, 2.0), row("lite", None, 0.5, 0.03, 1.0)])
    assert not any(name.startswith("ratio") for name in plots(alone))


def test_reports_are_read_and_written_again(tmp_path):
    for name in ("cells", "cells_twelve_epochs/report.json"):  # the second is older
        redraw([str(REPORTS / name), "--out", str(tmp_path / name)])
    kept, written = REPORTS / "cells", tmp_path / "cells"
    # Python 3.12 and later add floats more exactly, so the last digit is not the same everywhere
    pd.testing.assert_frame_equal(
        pd.read_csv(written / "report.csv"), pd.read_csv(kept / "report.csv"), rtol=1e-9
    )
    assert (written / "report.json").read_text() == (kept / "report.json").read_text()
    older = read_report(tmp_path / "cells_twelve_epochs/report.json/report.json")
    assert [len(one.runs) for one in older.judged] == [1] * len(older.rows)
    with pytest.raises(ValueError, match=r"none.json is no report.json"):
        read_report(tmp_path / "none.json")


@pytest.fixture
def page(tmp_path):
    """The written page in a browser; nothing may be asked for and nothing complained of."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    write_report(report(), tmp_path)
    switches = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    switches += ["--disable-background-networking", "--disable-component-update"]
    asked, problems = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=switches)
        page = browser.new_page(viewport=dict(width=1280, height=860))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{tmp_path}/report.html")
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 7")
        yield page
        assert problems == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page.url]
        browser.close()


@pytest.mark.slow
def test_figures_and_sorting_in_a_browser(page):
    assert page.locator(".plot").count() == page.locator(".js-plotly-plot").count() == 7
    points = page.locator("#ap-latency .scatterlayer .point")
    assert points.count() == 11
    points.first.hover(force=True)
    assert "dense" in page.locator("#ap-latency .hovertext").first.text_content()
    assert page.evaluate("document.images[0].naturalWidth") == 60
    table = page.locator("table").first

    def sort(head):
        table.locator("th button", has_text=head).first.click()

    def column(index):
        return table.locator("tbody tr").evaluate_all(
            f"rows => rows.map(row => row.cells[{index}].innerText)"
        )

    assert column(0)[0].startswith("dense")
    sort("latency")
    times = [float(text) for text in column(6)]
    assert times == sorted(times) and len(times) == 11
    sort("latency")
    assert [float(text) for text in column(6)] == sorted(times, reverse=True)
    sort("encoder")
    names = [text.split()[0] for text in column(0)]
    assert names == sorted(names)
    sort("ratio")
    assert column(1)[0] == "0.10" and column(1)[-2:] == ["-", "-"]  # nothing last
    assert table.locator("tbody tr:has(td.front)").count() == 6
    assert table.locator("td.baseline").count() == 1
