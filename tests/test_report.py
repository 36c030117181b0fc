# SPDX-License-Identifier: Apache-2.0
"""The report of log folders made by hand; see also test_run_records.py."""

import json
import shlex

import pytest

from analysis import gallery, page, readers, report
from analysis.figures import figure1, figure4, style
from analysis.figures.style import LOOKS
from analysis.table import Row, Run, Table
from keras_bn.run_folder import RunFolder
from tests.pictures import png

CLAIM = {
    "number": 4,
    "name": "steps",
    "claim": "b moves & nothing <b>else</b>",
    "section": "2",
    "expected": "1e-12",
    "measured": {"change": 0.12345, "steps": None},
    "holds": True,
}


@pytest.fixture
def logdir(tmp_path):
    """A run that has recorded nothing yet."""
    folder = RunFolder(tmp_path / "logs" / "run")
    folder.path.mkdir(parents=True)
    folder.recipe_file.write_text(json.dumps({"recipe": {"seed": 0}}))
    return tmp_path / "logs"


def write_claims(logdir, *rows):
    (logdir / "claims.json").write_text(json.dumps({"results": rows}))


def test_claims_in_the_log_folder_are_shown(logdir, tmp_path):
    fails = {**CLAIM, "name": "x", "holds": False}
    write_claims(logdir, CLAIM, fails, {**fails, "not_seen": True})
    (logdir / "claim-steps.png").write_bytes(png())
    lines = report.write_report(logdir, tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "b moves &amp; nothing &lt;b&gt;else&lt;/b&gt;" in html
    assert "<td>change</td><td>0.1235</td>" in html
    assert "<td>steps</td><td>never</td>" in html
    assert "4 holds: " in html
    assert "4 FAILS: " in html
    assert "4 not seen: " in html
    assert html.count("data:image/png;base64,") == 1
    assert (tmp_path / "out" / "claim-steps.png").read_bytes() == png()
    assert not any("claims are missing" in line for line in lines)


def test_without_claims_it_says_how_to_measure_them(logdir, tmp_path):
    lines = report.write_report(logdir, tmp_path / "out")
    (missing,) = (line for line in lines if "claims are missing" in line)
    assert f"python -m analysis.claims --logdir={logdir}/claims" in missing


def test_what_it_says_can_be_typed(logdir, tmp_path):
    spaced = logdir.rename(tmp_path / "my logs")
    lines = report.write_report(spaced, tmp_path / "out")
    (missing,) = (line for line in lines if "claims are missing" in line)
    _, options = missing.split("analysis.claims ")
    assert shlex.split(options) == [
        f"--logdir={spaced}/claims",
        f"--output={spaced}/claims.json",
        f"--figures={spaced}",
    ]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((0.2, 7), {0.2, 0.5, 1, 2, 5}), ((1e-3, 1e2), {1e-3, 1e-1, 1e1})],
)
def test_a_logarithmic_axis_has_numbers(limits, expected):
    figure, ((axes,),) = style.panels(1, 1, width=4, height=3)
    axes.plot(limits, [0, 1])
    style.log_axis(axes, which="x")
    figure.canvas.draw()
    ticks = {float(f"{tick:.6g}") for tick in axes.get_xticks()}
    assert expected <= ticks


def test_many_powers_of_ten_have_some_numbers():
    figure, ((axes,),) = style.panels(1, 1, width=4, height=3)
    axes.plot([1e-22, 1e3], [0, 1])
    style.log_axis(axes, which="x")
    figure.canvas.draw()
    shown = [tick for tick in axes.get_xticks() if 1e-22 <= tick <= 1e3]
    assert 3 <= len(shown) <= 12


def test_the_runs_of_claims_are_not_among_the_readers_own(logdir, tmp_path):
    """A run that is itself called claims is."""
    runs = [logdir / "claims", logdir / "claims" / "a", logdir / "claims" / "b"]
    for run in runs:
        run.mkdir()
        (run / "recipe.json").write_text(json.dumps({"recipe": {"seed": 1}}))
    assert {*readers.read(logdir).runs} == {"run", "claims"}
    assert {*readers.read(logdir / "claims").runs} == {"claims", "a", "b"}
    report.write_report(logdir, tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert f"The 2 runs in {logdir / 'claims'} were trained for" in html


def test_damaged_curves_are_said_on_the_page(logdir, tmp_path):
    path = logdir / "run" / "train" / "events.out.tfevents.1"
    path.parent.mkdir()
    path.write_bytes(bytes(range(100)))
    report.write_report(logdir, tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert html.count(f"{path} is damaged after step 0") == 1


@pytest.mark.parametrize("kind", ["file", "run"])
def test_images_in_tensorboard_are_left_out_where_they_cannot_be(
    logdir, tmp_path, monkeypatch, kind
):
    figures = logdir / "figures"
    if kind == "file":
        figures.touch()
    else:
        figures.mkdir()
        (figures / "recipe.json").write_text(json.dumps({"recipe": {}}))
    picture = page.Picture("x", "", png())
    monkeypatch.setattr(gallery, "drawn", lambda _: ([picture], []))
    lines = report.write_report(logdir, tmp_path / "out")
    assert any(line.startswith("no images in TensorBoard: ") for line in lines)
    assert (tmp_path / "out" / "index.html").exists()
    assert (tmp_path / "out" / picture.file).read_bytes() == png()
    if kind == "run":
        assert [path.name for path in figures.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "damaged"),
        ("[]", "holds no JSON object"),
        ('{"results": [{"number": 1}]}', "a claim has no claim"),
        ('{"results": 3}', "its field results is 3"),
        ('{"results": ["x"]}', "'x' is no claim"),
        (
            json.dumps({"results": [{**CLAIM, "measured": 1}]}),
            "measured no figures",
        ),
        (
            json.dumps({"results": [{**CLAIM, "measured": {"x": "much"}}]}),
            "'x' is no figure but 'much'",
        ),
    ],
)
def test_damaged_claims_are_refused(logdir, contents, message):
    (logdir / "claims.json").write_text(contents)
    with pytest.raises(readers.ReadError, match=message):
        readers.read_claims(logdir)


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("recipe.json", {"recipe": 5}, "its field recipe is 5"),
        (
            "recipe.json",
            {"starts": [{"environment": [1]}]},
            r"its field starts is \[\{'environment': \[1\]\}\]",
        ),
        ("result.json", {"seconds": "long"}, "its field seconds is 'long'"),
    ],
)
def test_records_of_the_wrong_kind_are_refused(logdir, file, contents, message):
    (logdir / "run" / file).write_text(json.dumps(contents))
    with pytest.raises(
        readers.ReadError, match=f"{file} is damaged: {message}"
    ):
        readers.read(logdir)


def test_a_picture_of_a_claim_that_is_none_is_refused(logdir, tmp_path):
    (logdir / "claim-x.png").write_bytes(b"GIF89a")
    with pytest.raises(readers.ReadError, match=r"claim-x.png .* no PNG"):
        report.write_report(logdir, tmp_path / "out")


EVALUATED = {
    "name": "a",
    "model": "inception",
    "step": 1000,
    "crops": 1,
    "top_1": 0.4,
    "top_5": 0.9,
}


def test_evaluations_in_the_log_folder_are_shown(logdir, tmp_path):
    files = {
        "evaluation.json": [EVALUATED],
        "evaluation-144.json": [
            {**EVALUATED, "name": "six\ud800", "step": None, "crops": 144}
        ],
    }
    files["evaluation_of_mine.json"] = {"is": "no list"}
    for name, rows in files.items():
        (logdir / name).write_text(json.dumps({"results": rows}))
    lines = report.write_report(logdir, tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "<td>60.00%</td><td>10.00%</td><td>25.2%</td><td>7.82%</td>" in html
    assert "<td>six\\ud800</td><td>-</td><td>144</td>" in html
    assert "<td>20.1%</td><td>4.9%</td>" in html
    assert any(line.startswith("six") for line in lines)


def test_what_is_printed_of_inception_is_not_set_beside_others():
    of_mlp = {**EVALUATED, "model": "mlp"}
    assert {len(row) for row in figure4.cells([of_mlp])} == {5}
    head, mlp, ours = figure4.cells([of_mlp, EVALUATED])
    assert head[5:] == ["printed: top-1", "printed: top-5"]
    assert (mlp[5:], ours[5:]) == (["-", "-"], ["25.2%", "7.82%"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, "3 is no row"),
        ({**EVALUATED, "top_1": "much"}, "top_1 of a row is 'much'"),
        ({**EVALUATED, "top_5": float("nan")}, "top_5 of a row is nan"),
        ({**EVALUATED, "top_5": 10**400}, "top_5 of a row is 1000"),
        ({**EVALUATED, "crops": True}, "crops of a row is True"),
        ({"name": "a"}, "model of a row is None"),
    ],
)
def test_damaged_evaluations_are_refused(logdir, row, message):
    (logdir / "evaluation.json").write_text(json.dumps({"results": [row]}))
    with pytest.raises(readers.ReadError, match=f"is damaged: {message}"):
        report.write_report(logdir, logdir / "out")


def test_what_was_written_is_listed(logdir, tmp_path):
    *_, last = report.write_report(logdir, tmp_path / "out")
    page = tmp_path / "out" / "index.html"
    assert last == f"Written: {page}, runs.json, curves.csv"


def test_runs_on_mnist_stand_above_what_the_paper_prints():
    run = Run("run", {"dataset": "mnist"}, [], {"seconds": 3.2})
    rows = [Row("run", "validation", "accuracy", 4000, 0.93)]
    head, ours, with_bn, without = report.key_figures(Table([run], rows))
    assert (head[1], ours[1], with_bn[1]) == ("at 4,000", "0.9300", "0.954")
    assert without[:2] == ["printed, without BN", "0.710"]
    assert len({len(row) for row in (head, ours, with_bn, without)}) == 1
    assert len(report.key_figures(Table([Run("r", {}, [], {})], []))) == 2


def test_a_resumed_run_shows_what_changed_from_start_to_start(logdir, tmp_path):
    path = logdir / "run" / "recipe.json"
    contents = json.loads(path.read_text())
    contents["starts"] = [
        {"environment": {"commit": commit, "versions": {"keras": version}}}
        for commit, version in (("aaa", "1.0"), ("bbb", "1.0"), ("aaa", "1.1"))
    ]
    path.write_text(json.dumps(contents))
    report.write_report(logdir, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for row in (
        ("commit", "aaa, then bbb, then aaa"),
        ("keras version", "1.0, then 1.1"),
    ):
        assert "<td>{}</td><td>{}</td>".format(*row) in page


def of_figure1(run, accuracy):
    """Rows of a run: what Fig. 1 needs, at one step."""
    tags = [f"percentiles/hidden1/unit0/{p}" for p in figure1.PERCENTILES]
    yield Row(run, "validation", "accuracy", 10, accuracy)
    for place, tag in enumerate(tags):
        yield Row(run, "analysis", tag, 10, float(place))


def test_no_picture_takes_the_place_of_another():
    """Two pairs of one data set and seed, as of a sweep over the rate."""
    measured = {"dataset": "digits", "seed": 0, "measures": ["percentiles"]}
    runs = [
        Run(f"{norm} {rate}", {**measured, "norm": norm, "rate": rate}, [], {})
        for rate in ("0.1", "../0.5")
        for norm in ("batch", "none")
    ]
    rows = [row for run in runs for row in of_figure1(run.name, 0.9)]
    pictures, _ = gallery.drawn(Table(runs, rows))
    assert [picture.name for picture in pictures] == [
        "figure1-batch-0.1",
        "figure1-batch-..-0.5",
        "all-runs",
    ]


@pytest.mark.parametrize(
    ("accuracy", "lowest"), [(0.9, 0.5), (0.6, 0.5), (0.1, 0.0)]
)
def test_fig_1_shows_every_line_in_colours_that_mean_one_thing(
    accuracy, lowest
):
    rows = [*of_figure1("batch", 0.95), *of_figure1("none", accuracy)]
    runs = [Run(norm, {"dataset": "digits"}, [], {}) for norm in LOOKS]
    drawn = figure1.figure(
        Table(runs, rows), with_bn="batch", without_bn="none"
    )
    curves, *percentiles = drawn.axes
    assert curves.get_ylim() == (lowest, 1.0)
    of_norms = {line.get_color() for line in curves.lines}
    of_percentiles = {
        line.get_color() for panel in percentiles for line in panel.lines
    }
    assert len(of_norms) == 2
    assert not of_norms & of_percentiles


def test_names_with_markup_are_text_in_the_report(tmp_path):
    name = "<script>alert(1)</script>"
    folder = RunFolder(tmp_path / "logs" / name)
    folder.path.mkdir(parents=True)
    recipe = {"recipe": name, "norm": '"><img src=x>', "seed": 0}
    folder.recipe_file.write_text(json.dumps({"recipe": recipe}))
    report.write_report(tmp_path / "logs", tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "<script" not in html
    assert "<img" not in html
