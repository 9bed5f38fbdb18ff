"""The paper's tables on GRID: their lines, their claims, and what is committed."""

import json

import pytest

from configs import grid
from toktalk_jax import evaluate, table_lines, tables, train
from toktalk_jax.evaluation import paper
from toktalk_jax.evaluation import tables as table_text
from toktalk_jax.evaluation.claims import check_claim


def test_every_table_of_grid_is_well_formed(tmp_path):
    """Every line resolves to a config, every claim to lines and a directed metric."""
    config = grid.get_config()
    assert "8,000 batches of 16" in grid.about(config)
    for number in table_text.TITLES:
        lines, claims = tables.fill(
            number, config, grid, runs=[tmp_path], kept=tmp_path / "rows", train=False
        )
        assert all(not line.rows and line.reason for line in lines)
        printed = paper.TABLES[number].rows
        assert {line.paper for line in lines} - {""} <= set(printed)
        for claim in claims:
            assert check_claim(lines, claim)["verdict"] == "not run"
        for given in getattr(grid, f"table_{number}")():
            line = table_lines.check(given)
            if line["data"]:
                train.check_config(table_lines.run_config(config, line, 0))
                assert set(line["sample"]) <= set(config.sample)
                assert line["run"] in ("", *table_lines.BLOCKS)


@pytest.mark.parametrize(
    "number",
    [2, 4, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 5))],
)
def test_the_committed_report_is_what_its_rows_say(number, tmp_path, monkeypatch):
    """Neither data nor runs are needed to draw it again, and no claim is lost."""
    monkeypatch.chdir(tmp_path)  # there is no data/ here
    shown = evaluate.RESULTS / f"table_{number}.json"
    config = grid.get_config()
    lines, claims = tables.fill(
        *(number, config, grid),
        **{"runs": [], "kept": evaluate.RESULTS / "rows", "train": False},
    )
    table_text.write(tmp_path, number, lines, claims, grid.about(config))
    same(json.loads((tmp_path / shown.name).read_text()), json.loads(shown.read_text()))
    assert grid.about(config) in shown.with_suffix(".md").read_text()


def same(found, kept):
    """Equal but for the last digits of numbers, which another machine may round."""
    assert type(found) is type(kept)
    if isinstance(found, dict):
        assert found.keys() == kept.keys()
        for name in found:
            same(found[name], kept[name])
    elif isinstance(found, list):
        assert len(found) == len(kept)
        for one, other in zip(found, kept, strict=True):
            same(one, other)
    elif isinstance(found, float):
        assert found == pytest.approx(kept, rel=1e-6, abs=1e-9)
    else:
        assert found == kept
