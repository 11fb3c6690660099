"""What is said of the numbers, and that the files and the page hold them."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from compared import report, row
from sparse_encoders.analysis.report import read_report
from sparse_encoders.analysis.report.__main__ import main as redraw
from sparse_encoders.analysis.report.figures import plots
from sparse_encoders.analysis.report.page import (
    as_csv,
    as_html,
    as_json,
    as_markdown,
    write_report,
)
from sparse_encoders.analysis.report.ranking import cheaper, cheapest_equal, front, shown
from sparse_encoders.analysis.report.summary import summarise
from sparse_encoders.analysis.report.tables import all_numbers, tables

CHROMIUM = Path("/usr/bin/chromium")


def drawn(actual):
    """The figures by name, as Plotly's JSON."""
    return {plot.name: plot.figure.to_plotly_json() for plot in plots(actual)}


def test_the_headline_names_the_front():
    actual = report()
    # focus 0.1 and sparse 0.1 are as fast as lite-focus 0.5 or slower, and lower in AP
    fastest = [f"lite-focus {ratio}" for ratio in (0.5, 0.3, 0.1)]
    assert [one.label for one in front(actual)] == ["dense", "focus 0.5", "lite", *fastest]
    said = summarise(actual)
    assert said.warnings == ()
    for number in ("dense (AP 0.552", "focus 0.5 (AP 0.549, -0.003, undecided; 1.33", "2 more"):
        assert number in said.headline
    assert {t.title: t.value for t in said.tiles}["of the encoder"] == "\N{MINUS SIGN}55%"
    assert "No cheaper" in said.points[0]
    assert "dense, 0.552" in said.points[1] and "focus 0.5" in said.points[1]
    assert any("lite-focus 0.1, 1.75 times" in p and "0.340" in p for p in said.points)
    (lost,) = [p for p in said.points if p.startswith("focus ")]
    assert "0.549 at 0.5, 0.489 at 0.3, 0.309 at 0.1" in lost
    # one run, the tests, no control, trained at another ratio, the machine
    assert len(said.caveats) == 5 and any("keep ratio 0.3" in c for c in said.caveats)
    assert "nothing is known" in said.caveats[0]


def test_a_faster_row_of_equal_ap_takes_the_place_of_a_slower_one():
    dense = row("dense", None, [0.500, 0.510, 0.490, 0.505], 0.06, 2.0, noise=1e-3)
    lite = row("lite", None, [0.499, 0.508, 0.490, 0.504], 0.03, 1.0, noise=1e-3)
    actual = report([dense, lite])
    assert actual.ap_verdict(lite) == "equal" and front(actual) == [lite]
    assert cheapest_equal(actual) is shown(actual) is lite
    said = summarise(actual)
    assert said.headline.startswith("Alone") and "lite" in said.headline
    assert "equal within 0.01" in said.points[0]
    assert any("mean of 4 training runs" in caveat for caveat in said.caveats)
    actual.margin = 0.001
    assert actual.ap_verdict(lite) == "undecided" and front(actual) == [dense, lite]


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
    rows[0].ap and rows[0].runs[0]["metrics"].update({"coco/bbox_mAP": 0.5})
    assert summarise(actual).warnings == ()
    rows[1].weights.update(schedule="b")
    (other,) = summarise(actual).warnings
    assert "schedule a" in other and "schedule b" in other


def test_a_control_that_does_as_well_is_said_first():
    dense = row("dense", None, [0.50, 0.51, 0.49, 0.505], 0.06, 2.0, noise=1e-3)
    one = row("dense-1", None, [0.50, 0.511, 0.49, 0.505], 0.02, 1.0, noise=1e-3)
    focus = row("focus", 0.3, [0.50, 0.509, 0.491, 0.505], 0.03, 1.2, noise=1e-3)
    actual = report([dense, focus, one])
    assert one.control and not focus.control
    (warning,) = summarise(actual).warnings
    assert "dense-1 (a control), 1.56 times as fast" in warning
    assert "dense-1 (a control)" in summarise(actual).points[0]
    worse = row("dense-1", None, [0.30, 0.311, 0.29, 0.305], 0.02, 1.0, noise=1e-3)
    said = summarise(report([dense, focus, worse]))
    assert said.warnings == () and said.points[0].startswith("Cheapest that is as accurate as")
    assert "focus 0.3" in said.points[0]


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
    assert [one.label for one in front(actual)] == ["dense", "random 0.3"]
    points = summarise(actual).points
    assert "dense, 0.500" in points[1]
    assert any("oracle 0.3" in p and "0.700" in p for p in points)


def test_without_accuracy_only_speed_is_claimed():
    rows = [row("dense", None, None, 0.06, 2.0), row("lite", None, None, 0.03, 1.0)]
    for one in rows:
        one.weights = {"source": "none"}
    actual = report(rows, pictures=0)
    actual.data = None
    assert shown(actual).label == "lite" and "1.37" in summarise(actual).headline
    assert len(summarise(actual).caveats) == 2  # random weights, the machine
    assert set(drawn(actual)) == {"stage-latency", "stage-madds"}
    assert "<figure" not in as_html(actual)
    rows = [row("dense", None, None, 0.06, 2.0), row("lite", None, 0.5, 0.03, 1.0)]
    without = summarise(report(rows)).headline
    low = report([row("dense", None, 0.01, 0.06, 2.0), row("lite", None, 0.02, 0.03, 1.0)])
    untrained = summarise(low).headline
    assert len({without, untrained, summarise(actual).headline}) == 3


@pytest.mark.slow
def test_failures_are_said_and_shown():
    rows = report().rows
    rows[1].error = "ValueError: <too> small"
    actual = report(rows)
    assert any("sparse 0.5" in p and "<too>" in p for p in summarise(actual).points)
    assert "&lt;too&gt; small" in as_html(actual) and "<too>" not in as_html(actual)
    assert all_numbers(actual)["status"].tolist() == ["ok", "FAILED", *["ok"] * 9]
    assert "FAILED" in as_markdown(actual)
    rows[0].error = "no"
    assert summarise(report(rows)).tiles == () and shown(report(rows)) is None
    assert "dense failed" in summarise(report(rows)).warnings[0]
    assert len(as_csv(report(rows)).splitlines()) == 12 and "<!DOCTYPE html>" in as_html(actual)


def test_markdown_has_units_machine_and_command():
    text = as_markdown(report())
    for expected in ("latency (ms)", "multiply-adds (G)", "peak memory (MiB)", "Intel <Xeon>"):
        assert expected in text
    assert "`python tools/compare.py CONFIG --data cells --out work_dirs/cells`" in text
    assert "torch 2.13.0" in text and "240 x 320 pixels" in text


def test_tables_have_the_numbers_and_leave_out_what_was_not_measured():
    actual = report()
    numbers = list(csv.DictReader(io.StringIO(as_csv(actual))))
    assert [line["encoder"] for line in numbers] == [one.encoder for one in actual.rows]
    for line, one in zip(numbers, actual.rows, strict=True):
        assert float(line["latency_ms"]) == pytest.approx(one.milliseconds)
        stages = [float(v) for k, v in line.items() if k.startswith("latency_") and "est" not in k]
        assert sum(stages[1:]) == pytest.approx(stages[0])
        parts = [float(v) for k, v in line.items() if k.startswith("gmadds_")]
        assert sum(parts[1:]) == pytest.approx(float(line["gmadds"]))  # after the encoder's sum
        assert float(line["ap"]) == one.ap and line["ap_large"] == ""
        share = 100 * one.memory_mib / actual.reference.memory_mib
        assert float(line["memory_share"]) == pytest.approx(share)
    sections = {table.title: table for table in tables(actual)}
    assert len(sections) == 5
    overview = sections["All variants"].shown()
    assert overview.loc[1, ["encoder", "keep_ratio", "ap", "ap_gain"]].tolist() == [
        "sparse", "0.50", "0.541", "-0.011",
    ]  # fmt: skip
    assert overview.loc[0, ["keep_ratio", "ap_gain"]].tolist() == ["-", "-"]
    assert "ap_large" not in sections["Accuracy and tokens"].frame
    assert "| encoder.values (G)" in sections["Multiply-adds"].as_markdown()


def test_figures_have_the_numbers():
    actual = report()
    figures = drawn(actual)
    assert len(figures) == 7
    curves = {trace["name"]: trace for trace in figures["ap-latency"]["data"]}
    assert list(curves) == actual.encoders
    focus = [one for one in actual.rows if one.encoder == "focus"]
    assert list(curves["focus"]["y"]) == [one.ap for one in focus]
    assert list(curves["focus"]["x"]) == [one.milliseconds for one in focus]
    assert list(curves["focus"]["text"]) == ["0.5", "0.3", "0.1"]
    assert list(curves["focus"]["error_y"]["array"]) == [one.estimate.half_width() for one in focus]
    ratios = {trace["name"]: trace for trace in figures["ratio-corr"]["data"]}
    assert list(ratios["sparse"]["x"]) == [0.5, 0.3, 0.1] and list(ratios["lite"]["x"]) == [1.0]
    *stages, whole = figures["stage-latency"]["data"]
    assert [sum(values) for values in zip(*(s["x"] for s in stages), strict=True)] == pytest.approx(
        list(whole["x"])
    )
    work = figures["stage-madds"]["data"][-1]
    assert list(work["x"]) == pytest.approx([one.madds() for one in actual.rows])
    alone = report([row("dense", None, 0.5, 0.06, 2.0), row("lite", None, 0.5, 0.03, 1.0)])
    assert not any(name.startswith("ratio") for name in drawn(alone))


@pytest.mark.slow
def test_a_report_is_read_again(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "report.json").write_text(as_json(report()))
    redraw([str(tmp_path / "first" / "report.json"), "--out", str(tmp_path)])
    assert "<!DOCTYPE html>" in (tmp_path / "report.html").read_text()
    again = read_report(tmp_path / "report.json")
    assert as_csv(again) == as_csv(report()) and as_markdown(again) == as_markdown(report())
    assert json.loads(as_json(again))["rows"] == json.loads(as_json(report()))["rows"]
    with pytest.raises(ValueError, match=r"none.json is no report.json"):
        read_report(tmp_path / "none.json")


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


@pytest.fixture
def page(browser, tmp_path):
    """Opens the written page; nothing may be asked for and nothing complained of."""
    write_report(report(), tmp_path)
    opened, asked, problems = [], [], []

    def open_page():
        page = browser.new_page(viewport=dict(width=1280, height=860))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{tmp_path}/report.html")
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 7")
        opened.append(page)
        return page

    yield open_page
    assert problems == []
    beyond = [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert beyond == [page.url for page in opened]
    for one in opened:
        one.close()


@pytest.mark.slow
def test_figures_in_a_browser(page):
    wide = page()
    assert wide.locator(".plot").count() == wide.locator(".js-plotly-plot").count() == 7
    assert wide.locator("#ap-latency .scatterlayer .point").count() == 11
    wide.locator("#ap-latency .scatterlayer .point").first.hover(force=True)
    assert "dense" in wide.locator("#ap-latency .hovertext").first.text_content()
    assert wide.evaluate("document.images[0].naturalWidth") == 60


@pytest.mark.slow
def test_tables_sort(page):
    table = page().locator("table").first

    def column(index):
        return table.locator("tbody tr").evaluate_all(
            f"rows => rows.map(row => row.cells[{index}].innerText)"
        )

    assert column(0)[0].startswith("dense")
    table.locator("th button", has_text="latency").click()
    times = [float(text) for text in column(6)]
    assert times == sorted(times) and len(times) == 11
    table.locator("th button", has_text="latency").click()
    assert [float(text) for text in column(6)] == sorted(times, reverse=True)
    table.locator("th button", has_text="encoder").first.click()
    names = [text.split()[0] for text in column(0)]
    assert names == sorted(names)
    table.locator("th button", has_text="ratio").click()
    assert column(1)[0] == "0.10" and column(1)[-2:] == ["-", "-"]  # nothing last
    assert table.locator("tbody tr:has(td.front)").count() == 6
    assert table.locator("td.baseline").count() == 1


def test_a_drawn_keep_ratio_and_what_was_matched_are_said():
    rows = [row("dense", None, 0.55, 0.06, 2.0), row("focus", 0.3, 0.54, 0.03, 1.0)]
    made = report(rows)
    made.rows[1].weights.update(trained_keep_ratio=None, trained_keep_range=(0.2, 0.9))
    made.matched = "dense-matched has 2 of 6 dense layers"
    text = as_markdown(made)
    assert "0.2 to 0.9" in text and "dense-matched has 2 of 6 dense layers" in text
    assert "dense-matched" not in as_markdown(report(rows))
